"""The interface in a few lines: on arrays, then on a store."""

import tempfile
from pathlib import Path

import lim_gpu
from lim_gpu.ingest import ingest
from lim_gpu.intensity import Intensity
from lim_gpu.phantom import phantom, write_data_set

if __name__ == "__main__":  # ingest decodes in child processes
    hu = phantom("chest", 24, 128, 128, seed=0)  # (n, H, W) int16, procedural
    slices = Intensity.parse(window="lung").to_uint8(hu)  # or your own: NumPy, torch, CuPy

    # float32 torch tensor (n, n) where the slices lie, larger = more alike
    matrix = lim_gpu.similarity_matrix(slices, method="ssim")
    ranking = lim_gpu.rank(matrix)
    print(ranking.keep(0.1), ranking.threshold(0.5))  # prefixes of one removal sequence

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data_set(folder / "sources", seed=0)  # DICOM, NIfTI and PNG files
        ingest(folder / "sources", folder / "slices")
        with lim_gpu.SliceStore(folder / "slices") as store:
            lim_gpu.reduce(store, "hash", threshold=6, output=folder / "selection.csv")
        dataset = lim_gpu.SliceDataset(folder / "slices", folder / "selection.csv")
        print(len(dataset), dataset[0].shape, dataset[0].dtype)  # int16 HU (1, H, W)
