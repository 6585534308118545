from gpu_kernels_table import gpu_kernels_table


def test_durations_of_the_kernels_of_a_block_are_added_up():
    result = {
        "rows": [
            {"form": "candidates=4", "batch": 1, "kernels": [["mod_block", 20.0], ["mod_block", 10.5]]},
            {"form": "", "batch": 8, "kernels": [["pool", 5.0], ["mod_block", 30.0], ["mod_block", 40.0]]},
        ],
        "provenance": {"device": "a GPU", "versions": {"torch": "2.11.0"}},
    }
    first, second = gpu_kernels_table(result).splitlines()[2:4]
    assert first == "| candidates=4 | 1 | 20, 10.5 | 30 |"
    assert second == "| paper | 8 | 5 + 30, 40 | 75 |"
