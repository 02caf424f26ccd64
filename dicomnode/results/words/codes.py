"""The one table of coded concepts.

Each is (value, scheme, meaning) as PS3.16 prints it; a test holds them against pydicom's dictionaries.

Traps that this table avoids (PS3.16): `codes.SCT.Stroke` is a stroke unit, `codes.DCM.VolumeRatio` a
diffusion index, `codes.DCM.CoronaRadiata` a chest sign. The meanings of template concepts stay in English:
OHIF matches them by meaning.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.sr.coding import Code

# Segments (CID 7150, 7151, 7194) and anatomy (CID 4031).
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION_OF_BRAIN = Code("301766008", "SCT", "Lesion of Brain")
BRAIN = Code("12738006", "SCT", "Brain")

# Sides (CID 244), and the healthy side that a lesion is compared with.
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
BILATERAL = Code("51440002", "SCT", "Bilateral")
CONTRALATERAL = Code("255209002", "SCT", "Contralateral")
SIDES: Mapping[str, Code] = {"left": LEFT, "right": RIGHT, "both": BILATERAL}
"""Key: `pipeline.records.Laterality`; an unknown side is not coded."""

# Regions: CID 4031 and the brain's own codes.
# Basal ganglia and periventricular white matter have none there.
REGIONS: Mapping[str, Code] = {
    "frontal": Code("83251001", "SCT", "Frontal lobe"),
    "parietal": Code("16630005", "SCT", "Parietal lobe"),
    "temporal": Code("78277001", "SCT", "Temporal lobe"),
    "occipital": Code("31065004", "SCT", "Occipital lobe"),
    "insula": Code("36169008", "SCT", "Insula"),
    "thalamus": Code("42695009", "SCT", "Thalamus"),
    "cerebellum": Code("113305005", "SCT", "Cerebellum"),
    "brain-stem": Code("119238007", "SCT", "Brain Stem"),
}
"""Key: `pipeline.records.RegionName`; a region without a code is in the words only."""

# Languages (RFC 5646, CID 5000).
LANGUAGES: Mapping[str, Code] = {
    "en": Code("en-US", "RFC5646", "English (United States)"),
    "de": Code("de", "RFC5646", "German"),
    "fr": Code("fr", "RFC5646", "French"),
    "es": Code("es", "RFC5646", "Spanish"),
}
"""Key: `report.language`."""

# Document, observer, equipment (CID 7021, 7000, 646, 7005, 7162).
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
DIAGNOSTIC_IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic Imaging Report")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
BRAIN_MRI = Code("24590-2", "LN", "Brain MRI")
DEVICE = Code("121007", "DCM", "Device")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# Measured quantities (CID 7469, 218, 7464) and methods (CID 7474).
VOLUME = Code("118565006", "SCT", "Volume")
NUMBER_OF_LESIONS = Code("246206008", "SCT", "Number of lesions (observable entity)")
RATIO = Code("118586006", "SCT", "Ratio (property) (qualifier value)")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
MAXIMUM_3D_DIAMETER = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
MR_SIGNAL_INTENSITY = Code("110852", "DCM", "MR signal intensity")
T1_SIGNAL_INTENSITY = Code("110804", "DCM", "T1 Weighted MR Signal Intensity")
CERTAINTY_OF_FINDING = Code("111012", "DCM", "Certainty of Finding")
TOTAL = Code("255619001", "SCT", "Total")
MAXIMUM = Code("56851009", "SCT", "Maximum")
MEAN = Code("373098007", "SCT", "Mean")
SUM_OF_SEGMENTED_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")

# Units. "ml" and "{lesions}" are UCUM, but not in the standard's context groups.
MILLILITER = Code("ml", "UCUM", "ml")
MILLIMETER = Code("mm", "UCUM", "mm")
PERCENT = Code("%", "UCUM", "Percent")
TIMES = Code("{times}", "UCUM", "times")
NO_UNITS = Code("1", "UCUM", "no units")

# Answers (CID 240, 6047) and words.
CAD_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
ALL_SUCCEEDED_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
ALL_SUCCEEDED_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
SOME_SUCCEEDED_WITHOUT_FINDINGS = Code("111243", "DCM", "Not all algorithms succeeded; without findings")
SOME_SUCCEEDED_WITH_FINDINGS = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
ABSENT = Code("272519000", "SCT", "Absent")
PRESENT = Code("52101004", "SCT", "Present")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")
IMAGE_QUALITY_RATING = Code("111029", "DCM", "Image Quality Rating")
LIMITED_QUALITY = Code("RID13", "RADLEX", "Limited quality")
IMPRESSION = Code("121073", "DCM", "Impression")
PROCEDURE_DESCRIPTION = Code("121065", "DCM", "Procedure Description")
DERIVED_MEASUREMENTS = Code("126011", "DCM", "Derived Imaging Measurements")
IMPRESSION = Code("121073", "DCM", "Impression")
PROCEDURE_DESCRIPTION = Code("121065", "DCM", "Procedure Description")
DERIVED_MEASUREMENTS = Code("126011", "DCM", "Derived Imaging Measurements")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
FINDING = Code("121071", "DCM", "Finding")
CONCLUSION = Code("121077", "DCM", "Conclusion")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")

# What became of a lesion since an earlier study (CID 6002, 3235), and what no standard code names: PS3.16
# knows new and vanished findings of mammograms only, and no agreement between networks.
OWN_SCHEME = "99DICOMNODE"
CHANGE = Code("change", OWN_SCHEME, "Change since the earlier study")
INCREASE_IN_SIZE = Code("15454001", "SCT", "Increase in size")
DECREASE_IN_SIZE = Code("19776001", "SCT", "Decrease in size")
NO_CHANGE = Code("260388006", "SCT", "No change")
NEW_LESION = Code("new", OWN_SCHEME, "New lesion")
LESION_IS_GONE = Code("gone", OWN_SCHEME, "Lesion is gone")
NOT_IMAGED = Code("not-imaged", OWN_SCHEME, "Lesion is outside the images")
EARLIER_VOLUME = Code("earlier-volume", OWN_SCHEME, "Volume in the earlier study")
RELATIVE_FLAIR = Code("flair-ratio", OWN_SCHEME, "FLAIR signal relative to the other side")
RELATIVE_T1 = Code("t1-ratio", OWN_SCHEME, "T1 signal relative to the other side")
CALIBRATED = Code("calibrated", OWN_SCHEME, "Calibrated on lesions outlined by experts")
AGREEMENT = Code("agreement", OWN_SCHEME, "Agreement of the network's passes")
TRACKING_UNIQUE_IDENTIFIER = Code("112040", "DCM", "Tracking Unique Identifier")
CHANGES: Mapping[str, Code] = {
    "new": NEW_LESION, "grown": INCREASE_IN_SIZE, "shrunk": DECREASE_IN_SIZE, "unchanged": NO_CHANGE,
    "gone": LESION_IS_GONE, "not imaged": NOT_IMAGED,
}  # fmt: skip
"""Key: `pipeline.records.Change`."""

NOT_IN_DICTIONARY = frozenset({MILLILITER, TIMES, QUALITATIVE_EVALUATIONS})
"""Used by PS3.16 (TID 1500) or UCUM, but absent from pydicom's dictionaries; so are those of our own scheme.
"""
