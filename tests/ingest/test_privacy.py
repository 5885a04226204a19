"""No name, number, date or UID of a patient reaches the store; the private folder is for its owner alone."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

import nibabel as nib
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_files import ct, enhanced, save, stored_slice, uid
from lim_gpu.ingest import ingest
from lim_gpu.ingest.volume_plan import Keys
from lim_gpu.store.private import private_folder, private_key, read_sources

CANARY = "Canary7Xq"
TEXTS = """
    PatientName PatientID OtherPatientIDs PatientBirthName PatientMotherBirthName PatientAddress PatientComments
    PatientTelephoneNumbers EthnicGroup Occupation AccessionNumber StudyID StudyDescription SeriesDescription
    InstitutionName InstitutionAddress InstitutionalDepartmentName ReferringPhysicianName PerformingPhysicianName
    OperatorsName NameOfPhysiciansReadingStudy RequestingPhysician ManufacturerModelName StationName DeviceSerialNumber
    ProtocolName ImageComments AdditionalPatientHistory ContrastBolusAgent BodyPartExamined ConvolutionKernel
    MedicalAlerts Allergies RequestedProcedureDescription PerformedProcedureStepDescription DerivationDescription
    SoftwareVersions AcquisitionDeviceProcessingDescription CurrentPatientLocation AdmissionID
""".split()
DATE, CANARY_UID = "19370203", uid("canary")


def full_of_canaries(dataset):
    for keyword in TEXTS:
        setattr(dataset, keyword, [CANARY] if dictionary_VR(tag_for_keyword(keyword)) == "CS" else CANARY)
    for keyword in ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, DATE)
    dataset.StudyInstanceUID = dataset.FrameOfReferenceUID = CANARY_UID
    dataset.private_block(0x0019, CANARY, create=True).add_new(1, "LO", CANARY)
    return dataset


def everything_in(store: Path) -> bytes:
    return b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / CANARY
    for i in range(2):
        save(full_of_canaries(ct(stored_slice(i), z=i, series=CANARY)), folder / f"{CANARY}{i}.dcm")
    save(full_of_canaries(enhanced(np.stack([stored_slice(5)] * 2), z=[0, 1], series="b")), folder / "enhanced.dcm")
    bad = full_of_canaries(ct(stored_slice(9), series="bad", RescaleType=CANARY, ImageType=["ORIGINAL", CANARY]))
    save(bad, folder / "more.dcm")
    broken = save(ct(stored_slice(9), series="broken"), folder / "broken.dcm")
    broken.write_bytes(broken.read_bytes()[:-8])
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header["descrip"], image.header["db_name"] = CANARY, CANARY
    nib.save(image, folder / f"{CANARY}.nii.gz")
    Image.fromarray(stored_slice(1).astype(np.uint8)).save(folder / f"{CANARY}.png")
    return folder


def test_no_canary_reaches_the_store_or_the_messages(tmp_path, sources, capfd):
    report = ingest([sources], tmp_path / "out", workers=1, skip_bad_slices=True, compression="deflate")
    assert report.written == 5
    raw = everything_in(tmp_path / "out")
    uids = [CANARY_UID, uid(CANARY), uid("b")]
    for secret in (CANARY, CANARY.lower(), DATE, *uids, sources.name):
        assert secret.encode() not in raw
    said = capfd.readouterr()
    paths_taken_out = (said.err + said.out).replace(str(sources), "")
    assert CANARY not in paths_taken_out.replace(f"{CANARY}.", "").replace(f"{CANARY}0", "")
    assert DATE not in said.err


def test_the_private_folder_names_the_sources_and_is_for_its_owner_alone(tmp_path, sources):
    store = tmp_path / "out"
    ingest([sources], store, workers=1)
    private = private_folder(store)
    assert private.parent == store.parent
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    files = [path for path in private.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    keys = [entry["key"] for entry in json.loads((store / "store.json").read_text())["volumes"]]
    rows = [row for key in keys for row in read_sources(store, key)]
    assert {row["path"] for row in rows} >= {str(sources / f"{CANARY}{i}.dcm") for i in range(2)}
    assert all(set(row) == {"path", "sop_uid", "frame"} for row in rows)


def test_keys_are_keyed_hashes_that_differ_from_store_to_store(tmp_path, sources):
    entries = []
    for name in ("a", "b"):
        ingest([sources], tmp_path / name, workers=1)
        entries.append(json.loads((tmp_path / name / "store.json").read_text())["volumes"])
    assert not {e["key"] for e in entries[0]} & {e["key"] for e in entries[1]}
    assert not {e["patient"] for e in entries[0]} & {e["patient"] for e in entries[1]}
    assert Keys(private_key(tmp_path / "a")).digest("patient", CANARY)[:16] in {e["patient"] for e in entries[0]}
    assert {e["name"] for e in entries[0]} == {""}


def test_with_keep_identifiers_keys_are_plain_and_names_readable(tmp_path, sources):
    entries = []
    for name in ("a", "b"):
        ingest([sources], tmp_path / name, workers=1, keep_identifiers=True)
        entries.append(json.loads((tmp_path / name / "store.json").read_text())["volumes"])
    assert entries[0] == entries[1]
    assert f"{CANARY}/{uid(CANARY)}" in {entry["name"] for entry in entries[0]}
    plain = hashlib.sha256(f"patient\0{CANARY}".encode()).hexdigest()[:16]
    assert plain in {entry["patient"] for entry in entries[0]}
    assert not (private_folder(tmp_path / "a") / "key").exists()


def test_the_same_patient_has_one_key_across_series(tmp_path, run):
    for name, patient in (("a", "one"), ("b", "one"), ("c", "two"), ("d", ""), ("e", "")):
        save(ct(stored_slice(1), series=name, study=name, patient=patient), tmp_path / "in" / name)
    a, b, c, d, e = (volume.entry.patient for volume in run().volumes)
    assert a == b
    assert len({a, c, d, e}) == 4  # without a PatientID, each study is somebody


def test_a_tag_never_becomes_a_path(tmp_path, run):
    evil = "../../../../evil"
    dataset = ct(stored_slice(1), patient=evil)
    dataset.SeriesInstanceUID = evil
    save(dataset, tmp_path / "in" / "a")
    run(keep_identifiers=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "out.private"]
