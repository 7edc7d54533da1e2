#!/usr/bin/env python3
"""Does a server that is killed in the middle of writing a long text find again what it had sealed a second before?

    store_kill.py --larder PROGRAM --model FILE [--tokens N]

Kills it twice: while it computes and writes the text itself, and, when it has answered, while it writes another one. Answers are
compared to the bit (tokens and log-probabilities) with the one before.
"""
import http.client
import threading
import time

from store_servers import BLOCK, command_line, run


def ask_in_vain(server, prompt):
    try:
        server.ask(prompt)
    except (OSError, http.client.HTTPException):
        return  # killed


def kill_while_writing(server, prompt, least):
    """Asks, and kills the server when the cache has sealed `least` blocks and some of them wait to be written. How many it had
    sealed a second before."""
    asking = threading.Thread(target=ask_in_vain, args=(server, prompt))
    asking.start()
    seen = []
    while True:
        stats = server.stats()
        seen.append((time.monotonic(), stats["blocks"]["sealed"]))
        if stats["disk"]["pending_bytes"] > 0 and seen[-1][1] >= least:
            break
        assert asking.is_alive(), f"answered before anything was seen waiting: {stats['disk']}"
        time.sleep(0.005)
    server.kill()
    killed = time.monotonic()
    asking.join()
    print(f"killed with {stats['disk']['pending_bytes']} bytes waiting, {seen[-1][1]} blocks sealed", flush=True)
    return max((sealed for when, sealed in seen if when <= killed - 1), default=0)


def found_again(world, server, prompt, sealed):
    answer, cache = server.ask(prompt)
    assert answer == world.right(prompt), f"another answer; the cache said {cache}"
    came = (cache["read"]["disk"] + 1) // BLOCK
    print(f"{came} of {sealed} blocks came from disk", flush=True)
    assert came >= 0.95 * sealed, f"{came} of {sealed} blocks came from disk: {cache}"
    return answer


def killed_twice(world, tokens):
    options = ("--disk", str(world.folder / "kill"), "--disk-limit", "1G", "--kv-limit", "640M")
    prompt = world.prompt(tokens)
    blocks = tokens // BLOCK
    server = world.server(*options)
    sealed = kill_while_writing(server, prompt, blocks * 3 // 4)
    assert sealed >= blocks // 4, f"{sealed} of {blocks} blocks"
    server = world.server(*options)
    before = found_again(world, server, prompt, sealed)
    time.sleep(1)
    kill_while_writing(server, world.prompt(tokens // 2), blocks + blocks // 8)
    server = world.server(*options)
    assert found_again(world, server, prompt, blocks) == before
    disk = server.stats()["disk"]
    assert disk["used_bytes"] <= disk["limit_bytes"] and disk["bad_records"] == 0, disk
    server.stop()


def main():
    parser = command_line()
    parser.add_argument("--tokens", type=int, default=8000)
    arguments = parser.parse_args()
    run(arguments, [lambda world: killed_twice(world, arguments.tokens)])


if __name__ == "__main__":
    main()
