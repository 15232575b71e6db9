from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_host._difference import Difference, Place, difference

PLACES = st.tuples(st.sampled_from("ab"), st.sampled_from("0123"))
PRINTS = st.dictionaries(PLACES, st.sampled_from("xyz"))


def test_what_is_added_changed_removed_and_left_alone():
    """ORCH-3600: a place is bound anew, rebound, taken out or left alone, by its name and fingerprint alone."""
    bound = {("a", "0"): "x", ("a", "1"): "x", ("a", "2"): "x"}
    wanted = {("b", "0"): "x", ("a", "1"): "y", ("a", "0"): "x"}

    assert difference(bound, wanted) == Difference(
        added=(("b", "0"),), changed=(("a", "1"),), removed=(("a", "2"),), unchanged=(("a", "0"),)
    )


def test_an_empty_fingerprint_is_one():
    """A binding that does not know what it was built from is changed by whatever is wanted in its place."""
    assert difference({("a", "0"): ""}, {("a", "0"): "x"}).changed == (("a", "0"),)


@given(PRINTS, PRINTS)
def test_carrying_it_out_gives_what_is_wanted(bound: dict[Place, str], wanted: dict[Place, str]):
    """ORCH-3600: every place is named once, in the order wanted, and doing what is told makes the one the other."""
    todo = difference(bound, wanted)
    done = {place: print_ for place, print_ in bound.items() if place not in todo.removed}
    done |= {place: wanted[place] for place in (*todo.added, *todo.changed)}

    assert done == wanted
    assert sorted([*todo.added, *todo.changed, *todo.removed, *todo.unchanged]) == sorted({*bound, *wanted})
    for some in (todo.added, todo.changed, todo.unchanged):
        assert list(some) == [place for place in wanted if place in some]
    assert all(bound[place] == wanted[place] for place in todo.unchanged)
    assert all(bound[place] != wanted[place] for place in todo.changed)
