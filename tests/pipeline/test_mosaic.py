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

from pipeline.errors import SceneError
from pipeline.grid import Window
from pipeline.mosaic import Layer, Mosaic, on_dask
from pipeline.scene import Scene, Staged
from pipeline.times import TimeAxis

FILL = 65535


def _layer(axis: TimeAxis, offset: int, tile: str, sha256: str) -> Layer:
    acquired = axis.valid_time(3) + timedelta(seconds=offset)
    scene = Scene("s.tif", tile, acquired, acquired, "", sha256)
    return Layer(Staged(Path("s.tif"), Path("s.tif"), sha256), None, scene, 3, Window(0, 1, 0, 1))


scenes = st.lists(
    st.tuples(st.integers(-150, 150), st.sampled_from("ab"), st.sampled_from(["0f", "a0"])), min_size=1, max_size=6
)


@given(scenes, st.randoms())
def test_the_order_of_a_slots_layers_does_not_depend_on_their_arrival(
    found: list[tuple[int, str, str]], chance: Any
) -> None:
    axis = TimeAxis(datetime(2024, 1, 1, tzinfo=UTC), timedelta(minutes=5))
    layers = [_layer(axis, *one) for one in found]
    shuffled = chance.sample(layers, len(layers))
    ordered = Mosaic.of(3, layers, axis).layers
    assert Mosaic.of(3, shuffled, axis).layers == ordered
    distances = [abs(layer.scene.acquired - axis.valid_time(3)) for layer in ordered]
    assert distances == sorted(distances)


def test_results_come_in_the_order_of_the_calls() -> None:
    assert on_dask((lambda i=i: i * i) for i in range(50)) == [i * i for i in range(50)]


def test_a_fault_in_a_call_is_not_swallowed() -> None:
    def fail() -> None:
        raise SceneError("unreadable", "block 3")

    with pytest.raises(SceneError, match="block 3"):
        on_dask([fail])


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
