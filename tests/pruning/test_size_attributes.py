"""Numbers of channels in attributes."""

from torch import nn

from kdeploy.pruning.size_attributes import attribute_path, lower_number, path_of_list, read_number


def make():
    model = nn.Sequential(nn.Module())
    model.width = 3
    model[0].heads, model[0].sizes, model[0].pair = 4, [8, 6], (1, 2)
    return model


def test_a_number_is_read_and_lowered_where_it_stands():
    model = make()
    for path, after in (("0.heads", 2), ("width", 1), ("0.sizes.1", 4), ("0.pair.1", 0)):
        lower_number(model, path, 2)
        assert read_number(model, path) == after
    assert (model[0].sizes, model[0].pair) == ([8, 4], (1, 0))


def test_a_list_that_copies_share_stays_theirs():
    model = make()
    sizes = model[0].sizes
    lower_number(model, "0.sizes.0", 1)
    assert sizes == [8, 6]


def test_a_list_is_found_by_its_numbers():
    model = make()
    assert path_of_list(model, "0", (8, 6)) == "0.sizes"
    assert path_of_list(model, "0", [1, 2]) == "0.pair"
    assert path_of_list(model, "0", [8, 7]) is None
    assert attribute_path("", "width") == "width"
