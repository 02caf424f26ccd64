"""JPEG Extended with 12 bits a sample, decoded by GDCM's own 12-bit library.

Its Transfer Syntax is 1.2.840.10008.1.2.4.51.

pydicom hands such frames to no other decoder than pylibjpeg-libjpeg, whose licence is the GPL. GDCM decodes
them too: its values are those of dcmtk, bit for bit, on the images tried.
"""

from __future__ import annotations

import gdcm
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import JPEGExtended12Bit

PLUGIN = "gdcm-12-bit"
DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm",)}


def register() -> None:
    """Add this decoder to pydicom's for JPEG Extended; once is enough, more often does no harm."""
    decoder = get_decoder(JPEGExtended12Bit)
    if PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def is_available(transfer_syntax: str) -> bool:
    """Return whether this module decodes a transfer syntax; pydicom asks it of every plugin."""
    return transfer_syntax == JPEGExtended12Bit


def decode_frame(codestream: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame of grey values.

    Parameters
    ----------
    codestream
        The JPEG stream of one frame (PS3.5 A.4.1).
    runner
        pydicom's description of the frame.

    Returns
    -------
    bytearray
        Rows x Columns values of Bits Allocated bits, little endian, row by row.

    Raises
    ------
    RuntimeError
        GDCM cannot decode the stream, or decodes another number of values.
    """
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    bits_stored = runner.bits_stored
    image.SetPixelFormat(
        gdcm.PixelFormat(
            runner.samples_per_pixel,
            8 if bits_stored <= 8 else 16,
            bits_stored,
            bits_stored - 1,
            runner.pixel_representation,
        )
    )
    # SWIG hands out bytes as text in which every byte that is no UTF-8 is a lone surrogate.
    values = image.GetBuffer().encode("utf-8", "surrogateescape")
    bytes_a_value = 1 if bits_stored <= 8 else 2
    if len(values) != runner.rows * runner.columns * runner.samples_per_pixel * bytes_a_value:
        raise RuntimeError("GDCM could not decode a frame of JPEG Extended")
    # pydicom expects values as wide as Bits Allocated says.
    return bytearray(
        np.frombuffer(values, f"<u{bytes_a_value}").astype(f"<u{runner.bits_allocated // 8}").tobytes()
    )
