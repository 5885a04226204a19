"""Labels of the slices of a store: a table that names them by volume and slice, or by the UID of their source.

table       such a CSV joined to its store
images      the labelled slices as the batches of a network
make        tables made of what others annotated: lidc, dicom_seg, label_maps, and attributes of the patients
angiograms  procedural chests with tables of their findings
"""
