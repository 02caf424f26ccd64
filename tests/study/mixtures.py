"""Random studies of two to twelve series of known kind, with the ranges of protocols of seven vendors.

Nothing here comes from the tables that selection works with: kinds, ranges and names are written anew, so that the two can disagree.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from dicomnode.records import Series
from tests.factories.protocols import MAKERS, Elements, scan

Draw = random.Random

_NAMES: dict[str, tuple[str, ...]] = {
    "mprage": ("T1 MPRAGE", "t1_mprage_sag", "Sag 3D T1", "T1W_3D", "BRAVO", "3D T1"),
    "t1 se": ("T1 SE ax", "AX T1", "t1_se_tra", "T1W_SE", "T1 TSE tra"),
    "t1 flair": ("T1 FLAIR ax", "AX T1 FLAIR", "t1_tirm_tra_dark-fluid"),
    "t1 flash": ("t1_fl2d_tra", "T1W_FFE", "AX T1 FLASH"),
    "t1 space": ("t1_space_sag", "3D T1 CUBE", "T1 VISTA"),
    "flair": ("AX FLAIR", "FLAIR tra", "t2_tirm_tra_dark-fluid", "T2 FLAIR", "FLAIR_longTR"),
    "flair 3d": ("3D FLAIR", "t2_space_dark-fluid_sag", "CUBE T2 FLAIR", "FLAIR VISTA"),
    "t2": ("AX T2", "t2_tse_tra", "T2W_TSE", "T2 FRFSE"),
    "pd": ("PD ax", "pd_tse", "PDW"),
    "dwi": ("DWI", "ep2d_diff_3scan_trace", "Ax DWI b1000", "Diffusion"),
    "adc": ("ADC", "ep2d_diff_ADC", "dADC"),
    "swi": ("SWI", "t2_swi3d_tra", "SWAN", "SWIp", "VenBOLD"),
    "t2star": ("T2* GRE", "gre_hemo", "T2_FFE", "AX GRE T2*"),
    "qsm": ("QSM_gre_e1", "QSM"),
    "tof": ("TOF_3D_multi-slab", "3D TOF MRA", "s3DI_MC_HR", "AX TOF"),
    "pca": ("PC venous", "phase contrast MRV", "3D PCA"),
    "stir": ("STIR ax", "t2_stir"),
    "dir": ("DIR", "space_dir"),
    "psir": ("PSIR", "T1 PSIR"),
    "fgatir": ("FGATIR", "sag FGATIR"),
    "inv1": ("mp2rage_INV1", "MP2RAGE_INV1"),
    "inv2": ("mp2rage_INV2", "MP2RAGE_INV2"),
    "t1 map": ("mp2rage_T1_Images", "T1 map"),
    "bssfp": ("FIESTA", "CISS", "bFFE", "TrueFISP"),
    "localizer": (
        "localizer",
        "3 plane loc",
        "Survey",
        "scout",
        "SAG LOC",
        "Übersicht",
        "定位像",
        "localizador",
        "Топограмма",
    ),
    "mt": ("MT ON", "gre MTC"),
    "dsc": ("ep2d_perf", "DSC perfusion"),
    "asl": ("pCASL", "ASL"),
    "subtraction": ("T1 SUB", "Subtraktion"),
    "mip": ("MIP TOF", "mIP_Images(SW)"),
    "calibration": ("ASSET calibration", "gre_field_mapping", "Ref Head"),
    "knee": ("knee cor T1", "Knie sag T1"),
}
_AFTER_AGENT = (
    "post",
    "+C",
    "KM",
    "gado",
    "con contraste",
    "MDC",
    "pós-contraste",
    "po kontraście",
    "kontrastlı",
    "с контрастом",
    "造影後",
    "增强",
    "조영증강",
    "بعد الصبغة",
)
_BEFORE_AGENT = ("", "", "pre", "nativ", "sin contraste", "senza mdc", "без контраста", "造影前", "平扫")
_EXAMS = (
    "STROKE MRI W PERFUSION",
    "BRAIN MRA",
    "HEAD W/WO GAD",
    "Kopf mit Angio",
    "BRAIN AND C-SPINE",
    "T1 T2 FLAIR DWI",
)
T1_KINDS = ("mprage", "mprage", "mprage", "t1 se", "t1 se", "t1 flair", "t1 flash", "t1 space")
FLAIR_KINDS = ("flair", "flair", "flair 3d")
DECOYS = tuple(kind for kind in _NAMES if kind not in {*T1_KINDS, *FLAIR_KINDS})


@dataclass(frozen=True)
class Mixture:
    """A random study with the series numbers that are right: T1 before agent, T1 after it, FLAIR before and after."""

    seed: int
    series: tuple[Series, ...]
    kinds: dict[int, str]
    t1: tuple[int, ...]
    t1_after: tuple[int, ...]
    flair: tuple[int, ...]
    flair_after: tuple[int, ...]


def draw_mixture(seed: int) -> Mixture:
    """Return the study of a seed."""
    draw = random.Random(seed)
    vendor = draw.choice(list(MAKERS))
    naming = draw.choice(("own", "own", "exam", "nameless"))
    exam = draw.choice(_EXAMS)
    planted = _planted(draw)
    decoys = draw.sample(DECOYS, draw.randint(max(0, 2 - len(planted)), 12 - len(planted)))
    order = [(kind, False, False) for kind in decoys] + planted
    draw.shuffle(order)
    # What follows an agent in a real study is acquired behind what comes before it.
    order.sort(key=lambda entry: entry[2])
    right: dict[tuple[str, bool], list[int]] = {}
    series, kinds = [], {}
    for number, (kind, is_planted, after) in enumerate(order, 1):
        name = "" if naming == "nameless" else draw.choice(_NAMES[kind])
        series.append(
            _series(
                draw, number, kind, vendor, name, after=after, protocol=exam if naming == "exam" else name
            )
        )
        kinds[number] = kind + (" after agent" if after else "")
        if is_planted:
            right.setdefault(("flair" if kind in FLAIR_KINDS else "t1", after), []).append(number)
    lists = {key: tuple(numbers) for key, numbers in right.items()}
    return Mixture(
        seed,
        tuple(series),
        kinds,
        lists.get(("t1", False), ()),
        lists.get(("t1", True), ()),
        lists.get(("flair", False), ()),
        lists.get(("flair", True), ()),
    )


def _planted(draw: Draw) -> list[tuple[str, bool, bool]]:
    planted = []
    if draw.random() < 0.85:
        planted.append((draw.choice(T1_KINDS), True, False))
    if draw.random() < 0.35:
        planted.append((draw.choice(T1_KINDS), True, True))
    if draw.random() < 0.85:
        planted.append((draw.choice(FLAIR_KINDS), True, False))
    if draw.random() < 0.1:
        planted.append((draw.choice(FLAIR_KINDS), True, True))
    return planted


def _series(
    draw: Draw, number: int, kind: str, vendor: str, name: str, *, after: bool, protocol: str
) -> Series:
    elements, extra = _KINDS[kind](draw, vendor), dict(_EXTRAS.get(kind, {}))
    if kind in {*T1_KINDS, *FLAIR_KINDS}:
        words = draw.choice(_AFTER_AGENT if after else _BEFORE_AGENT)
        named = bool(name) and draw.random() < 0.6
        if after and not named:
            extra["ContrastBolusAgent"] = draw.choice(
                ("GADOLINIUM", "Gadovist", "Dotarem 15 ml", "Magnevist")
            )
        if named and words:
            name = f"{name} {words}"
    if kind in {"tof", "localizer", "mt", "pca"} and not name:
        extra |= draw.choice(_SIGNS[kind])
    geometry = _geometry(draw, kind)
    return scan(number, name, elements, vendor=vendor, protocol=protocol, **geometry, **extra)


def _geometry(draw: Draw, kind: str) -> dict[str, object]:
    if kind in {"mprage", "t1 space", "flair 3d", "fgatir", "inv1", "inv2", "t1 map"}:
        spacing = draw.choice((0.9, 1.0, 1.2))
        return {
            "plane": draw.choice(("sagittal", "sagittal", "axial")),
            "count": round(170 / spacing),
            "spacing_mm": spacing,
            "pixel_mm": 1.0,
        }
    if kind == "localizer":
        return {
            "plane": draw.choice(("sagittal", "coronal", "axial")),
            "count": draw.randint(3, 14),
            "spacing_mm": draw.choice((6.0, 8.0)),
            "pixel_mm": 1.5,
        }
    if kind in {"tof", "pca", "swi", "qsm", "bssfp", "mt"}:
        return {
            "plane": "axial",
            "count": draw.randint(90, 160),
            "spacing_mm": draw.choice((0.8, 1.0, 1.5)),
            "pixel_mm": 0.5,
        }
    spacing = draw.choice((3.0, 4.0, 5.0, 5.5, 6.0))
    return {
        "plane": "axial",
        "count": round(150 / spacing),
        "spacing_mm": spacing,
        "pixel_mm": draw.choice((0.45, 0.7, 0.9)),
    }


def _mprage(draw: Draw, vendor: str) -> Elements:
    if vendor == "siemens":
        return {
            "family": ["GR", "IR"],
            "variant": ["SK", "SP", "MP"],
            "TR": draw.uniform(1600, 2600),
            "TE": draw.uniform(2.0, 4.4),
            "TI": draw.uniform(800, 1150),
            "flip": draw.randint(7, 15),
            "acquisition": "3D",
            "name": "*tfl3d1_16ns",
        }
    if vendor == "hyperfine":
        return {
            "family": ["SE", "IR"],
            "variant": ["SK"],
            "TR": draw.uniform(1200, 1800),
            "TE": draw.uniform(5, 9),
            "TI": draw.uniform(250, 400),
            "flip": 90,
            "acquisition": "3D",
        }
    inversion = {"ge": draw.uniform(400, 900), "philips": draw.choice((None, draw.uniform(800, 1000)))}.get(
        vendor, draw.uniform(700, 1000)
    )
    return {
        "family": ["GR"],
        "variant": ["SS", "SP"] if vendor == "ge" else ["MP"],
        "TR": draw.uniform(6.0, 11.0),
        "TE": draw.uniform(2.2, 4.6),
        "TI": inversion,
        "flip": draw.randint(8, 15),
        "acquisition": "3D",
    }


def _spin(
    TR: tuple[float, float],
    TE: tuple[float, float],
    TI: tuple[float, float] | None = None,
    acquisition: str = "2D",
) -> Callable[[Draw, str], Elements]:
    def elements(draw: Draw, _vendor: str) -> Elements:
        family = ["SE"] if TI is None else ["SE", "IR"]
        return {
            "family": family,
            "variant": ["SK"],
            "TR": draw.uniform(*TR),
            "TE": draw.uniform(*TE),
            "TI": draw.uniform(*TI) if TI else None,
            "flip": draw.choice((90, 120, 150)),
            "acquisition": acquisition,
        }

    return elements


def _gradient(
    TR: tuple[float, float],
    TE: tuple[float, float],
    flip: tuple[int, int],
    acquisition: str = "3D",
    **more: object,
) -> Callable[[Draw, str], Elements]:
    def elements(draw: Draw, _vendor: str) -> Elements:
        return {
            "family": ["GR"],
            "variant": ["SP"],
            "TR": draw.uniform(*TR),
            "TE": draw.uniform(*TE),
            "flip": draw.randint(*flip),
            "acquisition": acquisition,
            **more,
        }

    return elements


def _flair(draw: Draw, vendor: str) -> Elements:
    if vendor == "hyperfine":
        return {
            "family": ["SE", "IR"],
            "variant": ["SK"],
            "TR": draw.uniform(3800, 4300),
            "TE": draw.uniform(150, 190),
            "TI": draw.uniform(1350, 1500),
            "flip": 90,
        }
    repetition = draw.choice((8000, 8500, 9000, 10000, 11000))
    inversion = {8000: 2350, 8500: 2400, 9000: 2500, 10000: 2650, 11000: 2800}[repetition] + draw.uniform(
        -120, 120
    )
    family = ["IR"] if vendor == "philips" else ["SE", "IR"]
    return {
        "family": family,
        "variant": ["SK"],
        "TR": repetition,
        "TE": draw.uniform(85, 140),
        "TI": inversion,
        "flip": draw.choice((90, 120, 150)),
    }


def _flair_3d(draw: Draw, vendor: str) -> Elements:
    if vendor == "hyperfine":
        return {**_flair(draw, vendor), "acquisition": "3D"}
    repetition, inversion = draw.choice(
        ((4800, 1650), (5000, 1800), (6000, 2050), (7000, 2200), (8000, 2350))
    )
    return {
        "family": ["IR"] if vendor == "philips" else ["SE", "IR"],
        "variant": ["SK"],
        "TR": repetition,
        "TE": draw.uniform(110, 420),
        "TI": inversion + draw.uniform(-60, 60),
        "flip": 120,
        "acquisition": "3D",
    }


def _double_inversion(draw: Draw, _vendor: str) -> Elements:
    return {
        "family": ["SE", "IR"],
        "variant": ["SK"],
        "TR": draw.uniform(7300, 7700),
        "TE": draw.uniform(280, 330),
        "TI": draw.uniform(2950, 3100),
        "flip": 120,
        "acquisition": "3D",
    }


def _planar(TE: tuple[float, float]) -> Callable[[Draw, str], Elements]:
    return lambda draw, _vendor: {
        "family": ["EP", "SE"],
        "variant": ["SK"],
        "TR": draw.uniform(2000, 8000),
        "TE": draw.uniform(*TE),
        "flip": 90,
        "acquisition": "2D",
    }


def _prepared(TR: float, TI: tuple[float, float] | None) -> Callable[[Draw, str], Elements]:
    return lambda draw, _vendor: {
        "family": ["GR", "IR"],
        "variant": ["SK", "SP", "MP"],
        "TR": TR,
        "TE": draw.uniform(2.5, 3.5),
        "TI": draw.uniform(*TI) if TI else None,
        "flip": 5,
        "acquisition": "3D",
    }


_KINDS: dict[str, Callable[[Draw, str], Elements]] = {
    "mprage": _mprage,
    "t1 se": _spin((400, 750), (8, 20)),
    "t1 flair": _spin((1800, 2600), (8, 24), (750, 1000)),
    "t1 flash": _gradient((150, 300), (2.3, 5.0), (60, 85), "2D"),
    "t1 space": _spin((500, 800), (7, 22), acquisition="3D"),
    "flair": _flair,
    "flair 3d": _flair_3d,
    "t2": _spin((3500, 7000), (80, 120)),
    "pd": _spin((2000, 3500), (9, 30)),
    "dwi": _planar((60, 100)),
    "adc": _planar((60, 100)),
    "swi": _gradient((26, 50), (18, 40), (10, 20)),
    "t2star": _gradient((500, 900), (14, 26), (15, 30), "2D"),
    "qsm": _gradient((25, 45), (5, 8), (10, 20)),
    "tof": _gradient((19, 28), (2.5, 6.0), (15, 25)),
    "pca": _gradient((10, 25), (4, 9), (8, 15)),
    "stir": _spin((3500, 6500), (30, 80), (140, 230)),
    "dir": _double_inversion,
    "psir": _spin((2000, 3500), (9, 20), (350, 500)),
    "fgatir": _prepared(3000, (395, 430)),
    "inv1": _prepared(5000, (650, 900)),
    "inv2": _prepared(5000, (2300, 2900)),
    "t1 map": _prepared(5000, None),
    "bssfp": lambda draw, _vendor: {
        "family": ["GR"],
        "variant": ["SS"],
        "TR": 5.6,
        "TE": 2.8,
        "flip": draw.randint(40, 70),
        "acquisition": "3D",
    },
    "localizer": _gradient((4, 12), (1.5, 5.0), (15, 40), "2D"),
    "mt": _gradient((25, 40), (3, 8), (8, 15)),
    "dsc": _planar((25, 50)),
    "asl": _planar((12, 20)),
    "subtraction": _spin((400, 750), (8, 20)),
    "mip": _gradient((19, 28), (2.5, 6.0), (15, 25)),
    "calibration": _gradient((3, 6), (0.7, 1.6), (1, 4)),
    "knee": _spin((400, 750), (8, 20)),
}
_EXTRAS: dict[str, dict[str, object]] = {
    "dwi": {"DiffusionBValue": 1000.0},
    "adc": {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]},
    "t1 map": {"ImageType": ["DERIVED", "PRIMARY", "T1 MAP", "ND"]},
    "subtraction": {"ImageType": ["DERIVED", "PRIMARY", "M", "SUB", "SUBTRACTION"]},
    "mip": {"ImageType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"]},
    "knee": {"BodyPartExamined": "KNEE"},
}
# What a header shows where nobody wrote a name.
_SIGNS: dict[str, tuple[dict[str, object], ...]] = {
    "tof": (
        {},
        {"AngioFlag": "Y"},
        {"SequenceVariant": ["SP", "MTC"]},
        {"ScanOptions": ["FC", "SP"]},
        {"SequenceName": "*fi3d1r"},
    ),
    "localizer": ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    "mt": ({"SequenceVariant": ["SP", "MTC"]},),
    "pca": ({"ImageType": ["ORIGINAL", "PRIMARY", "M_PCA", "M", "PCA"]}, {"AngioFlag": "Y"}),
}
