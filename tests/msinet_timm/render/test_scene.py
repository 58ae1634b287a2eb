"""What is kept of people and vehicles while a data set is rendered."""

from msinet_timm.render.scene import PASSERS, keep_made


def test_who_walks_by_is_made_once():
    made = []
    person = keep_made(lambda seed, domain, height, number: made.append(number) or (number, height))
    for number in range(1, 100):
        for asked in (number, number, *PASSERS):
            assert person(0, 'street', 256, asked) == (asked, 256)
    assert sorted(made) == [*range(1, 100), *PASSERS]
    person.cache_clear()
    person(0, 'street', 256, PASSERS[0])
    assert len(made) == 99 + len(PASSERS) + 1
