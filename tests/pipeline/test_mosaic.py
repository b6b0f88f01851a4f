from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grid import Window
from pipeline.ledger import FileKey, State
from pipeline.mosaic import Arrival, Part, compose_slot, settle, without
from pipeline.scene import Fit, Scene
from pipeline.scenetable import SceneRow
from pipeline.schema import NO_LAYER
from pipeline.times import TimeAxis

FILL = 65535
AXIS = TimeAxis(datetime(2024, 1, 1, tzinfo=UTC), timedelta(minutes=5))
WHOLE = Window(0, 10, 0, 10)


def _arrival(
    sha256: str, *, offset: int = 0, tile: str = "", revision: str = "", known: int = 0, place: Window = WHOLE
) -> Arrival:
    """A scene of slot 3, taken ``offset`` s after its time and available ``known`` minutes after that."""
    acquired = AXIS.valid_time(3) + timedelta(seconds=offset)
    scene = Scene(f"{tile}{sha256}.tif", tile, acquired, acquired + timedelta(minutes=known), revision, sha256)
    return Arrival(FileKey(scene.source, 1, 1), Path("copy"), scene, 3, Fit(place, (0, 0), (), (1, 10)))


def _stored(arrivals: list[Arrival]) -> list[Part]:
    """The slot once these are in the cube."""
    mosaic = compose_slot(3, settle([], arrivals).parts, (), AXIS, 0)
    return [Part(part.row, index) for index, part in enumerate(mosaic.parts)]


scenes = st.lists(
    st.builds(
        _arrival,
        st.sampled_from(["0f", "a0", "b1"]),
        offset=st.integers(-2, 2),
        tile=st.sampled_from("ab"),
        revision=st.sampled_from("12"),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda arrival: arrival.scene.version,
)


@given(scenes, st.data())
def test_what_a_slot_shows_does_not_depend_on_the_order_or_number_of_deliveries(
    found: list[Arrival], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(found))
    cut = data.draw(st.integers(0, len(found)))
    once = compose_slot(3, settle([], found).parts, (), AXIS, 0)
    twice = compose_slot(3, settle(_stored(shuffled[:cut]), shuffled[cut:]).parts, (), AXIS, 9)
    assert [part.row.scene for part in once.shown] == [part.row.scene for part in twice.shown]
    distances = [abs(part.row.scene.acquired - AXIS.valid_time(3)) for part in once.shown]
    assert distances == sorted(distances)


@given(scenes)
def test_of_every_acquisition_exactly_one_version_stands(found: list[Arrival]) -> None:
    shown = compose_slot(3, settle([], found).parts, (), AXIS, 0).shown
    assert sorted(part.row.scene.identity for part in shown) == sorted({one.scene.identity for one in found})


def test_a_lone_scene_needs_no_layer_and_scenes_that_do_not_meet_need_none() -> None:
    west, east = (_arrival("0f", tile=t, place=w) for t, w in (("w", Window(0, 10, 0, 5)), ("e", Window(0, 10, 5, 10))))
    for arrivals in ([_arrival("0f")], [west, east]):
        mosaic = compose_slot(3, settle([], arrivals).parts, (), AXIS, 0)
        assert {part.row.layer for part in mosaic.parts} == {NO_LAYER}


def test_scenes_that_overlap_have_a_layer_each() -> None:
    mosaic = compose_slot(3, settle([], [_arrival("0f", tile=tile) for tile in "ab"]).parts, (), AXIS, 7)
    assert sorted(part.row.layer for part in mosaic.parts) == [7, 8]


def test_an_older_version_is_kept_only_if_it_was_the_best_known_for_a_time() -> None:
    new = _arrival("0f", revision="2", known=60)
    early, late = (_arrival("a0", revision="1", known=known) for known in (5, 90))
    assert len(compose_slot(3, settle([], [new, early]).parts, (), AXIS, 0).hidden) == 1
    assert len(compose_slot(3, settle([], [new, late]).parts, (), AXIS, 0).hidden) == 0


def test_the_ledger_hears_of_a_scene_whose_place_is_taken() -> None:
    entries = settle(_stored([_arrival("0f", revision="1")]), [_arrival("a0", revision="2")]).entries
    assert {(entry.key.name, entry.state) for entry in entries} == {
        ("a0.tif", State.ACCEPTED),
        ("0f.tif", State.SUPERSEDED),
    }


def test_behind_a_withdrawn_scene_the_best_version_kept_stands() -> None:
    old, new = _arrival("0f", revision="1"), _arrival("a0", revision="2", known=9)
    before = _stored([old, new])
    after = without(before, [new.scene.version])
    assert [part.row.scene.sha256 for part in after if part.row.standing] == ["0f"]
    gone = without(after, [old.scene.version])
    assert not compose_slot(3, gone, before, AXIS, 9).shown


def test_a_row_tells_the_file_that_it_came_from() -> None:
    assert isinstance(_arrival("0f").row, SceneRow)
    assert _arrival("0f").row.file == (1, 1)


def test_the_scene_nearest_to_the_slots_time_shows_and_the_other_fills_its_holes(product: Any) -> None:
    near, far = product.dn(1), product.dn(2)
    near[0, 5:20, 5:20] = FILL
    product.scene(2.1, near)
    product.scene(1.8, far)
    product.ingest()
    np.testing.assert_array_equal(product.stored(2), np.where(near == FILL, far, near))
    assert (product.quality(2) == 0).all()
    assert product.cube().read([2]).acquired[0] == product.time(2.1).timestamp()


def test_tiles_of_one_slot_are_put_together(make_product: Callable[..., Any]) -> None:
    product = make_product(scenes={"pattern": "{tile}_{time}.tif"})
    west, east = product.dn(1, (1, 40, 20)), product.dn(2, (1, 40, 25))
    product.scene(0, west, name="west_20240601T050000Z.tif")
    east_corner = product.transform @ Affine.translation(23, 0)
    product.scene(0, east, name="east_20240601T050000Z.tif", transform=east_corner)
    product.ingest()
    stored = product.stored(0)
    np.testing.assert_array_equal(stored[..., :20], west)
    np.testing.assert_array_equal(stored[..., 23:], east)
    assert (stored[..., 20:23] == FILL).all()
    assert (product.quality(0)[:, 20:23] == 1).all()
    fractions = {row.scene.tile: row.valid_fraction for row in product.cube().rows}
    assert fractions == pytest.approx({"west": 20 / 48, "east": 25 / 48})


def test_a_masked_pixel_gives_way_to_a_good_one_of_the_same_slot(make_product: Callable[..., Any]) -> None:
    product = make_product(mask={"values": [1]})
    cloud = np.zeros((40, 48))
    cloud[:10] = 1
    product.mask(product.scene(0), cloud)
    product.mask(product.scene(0.2), np.roll(cloud, 5, axis=0))
    product.ingest()
    np.testing.assert_array_equal(product.stored(0)[0, :5], product.dn(200)[0, :5])
    np.testing.assert_array_equal(product.stored(0)[0, 5:], product.dn(0)[0, 5:])
    assert (np.flatnonzero(product.quality(0)[:, 0]) == np.arange(5, 10)).all()


def test_a_slot_larger_than_a_strip_is_written_whole(make_product: Callable[..., Any]) -> None:
    product = make_product(grid={"height": 1100, "width": 270})
    product.scene(0)
    product.ingest()
    np.testing.assert_array_equal(product.stored(0), product.dn(0))
    assert product.cube().rows[0].valid_fraction == 1
