"""From the heat of single slices to regions for a 3D network.

Pure functions on boxes (StrokeFormer's rules, written anew from their description).

Rows and columns of a rectangle, and all ends of a box, are half open. What the original lost is kept here: a
group that is still open at the last slice is a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.records import FloatArray

Bool = npt.NDArray[np.bool_]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and last (half open) along slice, row, column."""


@dataclass(frozen=True)
class Rectangle:
    """A part of a slice: rows top to bottom, columns left to right, half open."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def overlap(self, other_box: Rectangle) -> float:
        """Return the intersection over the union."""
        height = min(self.bottom, other_box.bottom) - max(self.top, other_box.top)
        width = min(self.right, other_box.right) - max(self.left, other_box.left)
        common = max(0, height) * max(0, width)
        return common / (self.area + other_box.area - common)


@dataclass(frozen=True)
class Group:
    """Neighbouring slices, first to last (both inside), and the rectangles that were proposed on them."""

    first: int
    last: int
    rectangles: tuple[Rectangle, ...]


def enclose(rectangles: Sequence[Rectangle]) -> Rectangle:
    """Return the smallest rectangle that holds all of them."""
    return Rectangle(
        min(rectangle.top for rectangle in rectangles),
        max(rectangle.bottom for rectangle in rectangles),
        min(rectangle.left for rectangle in rectangles),
        max(rectangle.right for rectangle in rectangles),
    )


def find_rectangle(heat: FloatArray, threshold: float, smallest_pixels: int) -> Rectangle | None:
    """Return what one slice proposes: the rectangle around every piece of at least `smallest_pixels`.

    The result is None when there is no such piece.
    """
    # 8-connected pieces of the slice at the threshold, and the pixels of each (entry 0 is the background).
    labels, _ = ndimage.label(heat >= threshold, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    boxes = [
        piece_box
        for number, piece_box in enumerate(ndimage.find_objects(labels), start=1)
        if sizes[number] >= smallest_pixels
    ]
    return (
        enclose([Rectangle(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in boxes])
        if boxes
        else None
    )


def group_slices(
    rectangles: Sequence[Rectangle | None], heads: Bool, area_change: float, head_iou: float
) -> list[Group]:
    """Gather slices while the head stays as it was on the group's first slice.

    A group is as long as its proposals reach.

    Parameters
    ----------
    rectangles
        What each slice proposes.
    heads
        (slice, row, column): where the head is.
    """
    # A group that is open, as (slice number, rectangle).
    groups: list[Group] = []
    opened: list[tuple[int, Rectangle]] = []

    def close() -> None:
        if opened:
            groups.append(Group(opened[0][0], opened[-1][0], tuple(rectangle for _, rectangle in opened)))
            opened.clear()

    # A slice without a proposal neither opens nor closes a group; a head that has changed closes it.
    for number, rectangle in enumerate(rectangles):
        if opened and not _same_head(heads[opened[0][0]], heads[number], area_change, head_iou):
            close()
        if rectangle is not None:
            opened.append((number, rectangle))
    close()
    return groups


def _same_head(first: Bool, other_box: Bool, area_change: float, head_iou: float) -> bool:
    # Pixels of the head on the group's first slice, and of both slices together.
    area, union = int(first.sum()), int((first | other_box).sum())
    if area == 0 or union == 0:
        return area == union
    # Relative change of the area, and intersection over union of the outlines.
    return (
        abs(int(other_box.sum()) - area) / area <= area_change
        and int((first & other_box).sum()) / union >= head_iou
    )


def settle_rectangle(rectangles: Sequence[Rectangle], box_iou: float) -> Rectangle:
    """Return the mean of the most frequent rectangle, or what encloses all of them where none came twice."""
    # Rectangles that overlap enough with the first of a cluster are the same region.
    clusters: list[list[Rectangle]] = []
    for rectangle in rectangles:
        home = next((cluster for cluster in clusters if cluster[0].overlap(rectangle) >= box_iou), None)
        if home is None:
            clusters.append([rectangle])
        else:
            home.append(rectangle)
    largest = max(clusters, key=len)
    if len(largest) < 2:
        return enclose(rectangles)
    count = len(largest)
    # Rounded outwards: a mean box is never smaller than the mean.
    return Rectangle(
        math.floor(sum(each.top for each in largest) / count),
        math.ceil(sum(each.bottom for each in largest) / count),
        math.floor(sum(each.left for each in largest) / count),
        math.ceil(sum(each.right for each in largest) / count),
    )


def box_of(group: Group, box_iou: float) -> Box:
    """Return the group's slices and its settled rectangle as one box."""
    settled = settle_rectangle(group.rectangles, box_iou)
    return ((group.first, group.last + 1), (settled.top, settled.bottom), (settled.left, settled.right))


def find_boxes(probability: FloatArray, threshold: float, smallest_voxels: int) -> list[Box]:
    """Return the box of each 26-connected piece of a whole-brain map that has at least `smallest_voxels`."""
    # 26-connected pieces; bincount gives the voxels of each label.
    labels, _ = ndimage.label(probability >= threshold, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    return [
        ((slices.start, slices.stop), (rows.start, rows.stop), (columns.start, columns.stop))
        for number, (slices, rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
        if sizes[number] >= smallest_voxels
    ]


def grow(box: Box, least: Sequence[int], shape: Sequence[int]) -> Box:
    """Return the box made at least `least` large about its middle, moved into `shape`.

    It is cut where `shape` is smaller.
    """
    grown = []
    for (first, last), least_size, room in zip(box, least, shape, strict=True):
        # As long as asked for, never longer than the image; then moved about its middle until it lies inside.
        size = min(max(last - first, least_size), room)
        start = min(max(0, (first + last - size) // 2), room - size)
        grown.append((start, start + size))
    return (grown[0], grown[1], grown[2])


def drop_contained(boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes without those that lie inside another one, in order."""
    remaining: list[Box] = []
    for box in boxes:
        # A box inside an earlier one adds nothing; one around earlier ones takes their place.
        if not any(_inside(box, other_box) for other_box in remaining):
            remaining = [other_box for other_box in remaining if not _inside(other_box, box)] + [box]
    return remaining


def _inside(box: Box, other_box: Box) -> bool:
    return all(
        first >= outer_first and last <= outer_last
        for (first, last), (outer_first, outer_last) in zip(box, other_box, strict=True)
    )
