#!/usr/bin/env python3
"""Do servers of two models take turns on one directory, each with right answers, within one limit?

    store_models.py --larder PROGRAM --model FILE --other-model FILE
"""
from store_servers import command_line, run

LIMIT = 2 << 20


def in_turns(world, model):
    other = world.beside("other", model=model)
    options = ("--disk", str(world.folder / "models"), "--disk-limit", "2M")

    first = world.server(*options)
    mine = [world.prompt(400) for _ in range(3)]
    for prompt in mine:
        world.check(first, prompt)
    stored = first.settled("disk")
    first.stop()

    # Counted, and found by nobody.
    second = other.server(*options)
    there = second.stats()["disk"]
    assert there["records"] == stored["records"] > 0, (stored, there)
    assert there["used_bytes"] >= stored["written_bytes"] > 0, (stored, there)
    assert other.check(second, mine[0])["recomputed"] == 400
    theirs = world.prompt(300)
    other.check(second, theirs)
    both = second.settled("disk")
    assert both["records"] > stored["records"] and both["evicted_records"] == 0, both
    second.call("/v1/cache/clear", {})
    assert other.check(second, theirs)["read"]["disk"] == 299
    second.stop()

    first = world.server(*options)
    assert first.stats()["disk"]["records"] == both["records"]
    for prompt in mine:
        assert world.check(first, prompt)["read"]["disk"] == 399
    first.stop()

    # What is oldest goes, whosesoever it is.
    second = other.server(*options)
    for _ in range(100):
        newest = world.prompt(300)
        other.check(second, newest)
        disk = second.settled("disk")
        assert disk["used_bytes"] <= disk["limit_bytes"] == LIMIT, disk
        if disk["evicted_records"] >= both["records"]:
            break
    assert disk["evicted_records"] >= both["records"], disk
    second.call("/v1/cache/clear", {})
    assert other.check(second, newest)["read"]["disk"] == 299
    second.stop()

    first = world.server(*options)
    for prompt in mine:
        assert world.check(first, prompt)["read"]["disk"] == 0
    first.settled("disk")
    first.call("/v1/cache/clear", {})
    assert world.check(first, mine[-1])["read"]["disk"] == 399, "stored anew"
    disk = first.stats()["disk"]
    assert disk["used_bytes"] <= LIMIT and disk["bad_records"] == 0, disk
    first.stop()


def main():
    parser = command_line()
    parser.add_argument("--other-model", required=True)
    arguments = parser.parse_args()
    run(arguments, [lambda world: in_turns(world, arguments.other_model)])


if __name__ == "__main__":
    main()
