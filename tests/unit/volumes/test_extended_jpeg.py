"""JPEG Extended with 12 bits is decoded, to the values that dcmtk decodes (dcmdjpeg 3.6.7 on the same stream)."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit, MRImageStorage

from dicomnode.volumes import extended_jpeg

# 16 rows and 24 columns of 200 * row + 17 * column, one pixel at 4000, encoded by dcmcjpeg +ee.
CODESTREAM = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*"
    "7Z?^47!ni}6#u~h3k(1d02l!Q5di<h02TlN0RaF20000000000000093<&?k03r|o00agD0RaF200000000041qKKJ2MZ@OMFUad"
    "0tx@x00;pA002J#jCb<}h|^0+NcU<~<CvW2nzM;fD*zNWm1M4&WhjLFw3wd@WU#@?6`?rfp~!`y4=OMk=#z+qw81Vfgy}$^Jo`Ej"
    "4L&tCqTDT#hYlrx>rv(wrpZHx62Nt+^A_tiN*p+r1Fc7xTAL*f97_S#qs%RBl7|i@fa_7_KmY&P"
)
SHA256_OF_DCMTK_VALUES = "7e0d071c0a52f4e8740d773e5c586375d1d92d3b4aae38609f5d6afe3ce6e04f"


def _dataset(codestream: bytes) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 16, 24, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_values_are_those_of_dcmtk(tmp_path: Path) -> None:
    extended_jpeg.register()
    path = tmp_path / "extended.dcm"
    _dataset(CODESTREAM).save_as(path, enforce_file_format=True)
    values = pydicom.dcmread(path).pixel_array
    assert values.shape == (16, 24)
    assert values.max() > 3900  # above what 8 bits or a wrong scale would give
    assert hashlib.sha256(values.astype("<u2").tobytes()).hexdigest() == SHA256_OF_DCMTK_VALUES
    rows, columns = np.mgrid[0:16, 0:24]
    assert np.median(np.abs(values.astype(int) - (200 * rows + 17 * columns))) <= 2


def test_a_broken_stream_is_an_error_and_no_picture() -> None:
    extended_jpeg.register()
    with pytest.raises(RuntimeError):
        get_decoder(JPEGExtended12Bit).as_array(
            _dataset(CODESTREAM[:40]), decoding_plugin=extended_jpeg.PLUGIN
        )


def test_registering_twice_does_no_harm() -> None:
    extended_jpeg.register()
    extended_jpeg.register()
    assert get_decoder(JPEGExtended12Bit).available_plugins.count(extended_jpeg.PLUGIN) == 1
