import pytest

from tunesmith.sweep.worker import visible_device


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ["0", "1"]),
        ("0,1", ["0", "1"]),
        ("2,3", ["2", "3"]),
        ("3, 1", ["3", "1"]),
        ("GPU-8932f937,GPU-a1b2c3d4", ["GPU-8932f937", "GPU-a1b2c3d4"]),
        ("MIG-b8ea3855", ["MIG-b8ea3855"]),
    ],
)
def test_a_worker_gets_one_of_the_devices_that_the_sweep_was_given(visible, devices):
    assert [visible_device(number, visible) for number in range(len(devices))] == devices
