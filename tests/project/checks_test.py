"""Do the checks of the tree notice what they are there for? Each is run on a small tree that is wrong in one way."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
SOUND = {
    "src/base/a.h": "#pragma once\n",
    "src/store/tier.h": '#include "base/a.h"\n',
    "src/kv/c.h": "#pragma once\n",
    "src/kv/b.cc": '#include <vector>\n#include "store/tier.h"\n#include "hwy/highway.h"\n',
    "src/serve/c.cc": '#include "kv/c.h"\n',
    "src/capi/d.cc": '#include "capi/d.h"\n#include "store/tier.h"\n#include "larder/store.h"\n',
    "src/capi/d.h": "#pragma once\n",
    "docs/page.md": "# A page\nSee [it](page.md#a-page), `src/base/a.h`, [elsewhere](https://example.org).\n",
}


def run(check, files):
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = pathlib.Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, SCRIPTS / check, root], capture_output=True, text=True)
        return done.returncode, done.stdout


class Layers(unittest.TestCase):
    def refused(self, name, text, expected):
        code, out = run("check-layers", SOUND | {name: text})
        self.assertEqual(code, 1, out)
        self.assertIn(expected, out)

    def test_a_sound_tree_passes(self):
        self.assertEqual(run("check-layers", SOUND)[0], 0)

    def test_include_upwards(self):
        self.refused("src/base/d.cc", '\n#include "kv/b.cc"\n', "src/base/d.cc:2: base may not include kv/b.cc")

    def test_include_upwards_by_one(self):
        self.refused("src/store/d.cc", '#include "kv/b.cc"\n', "src/store/d.cc:1:")

    def test_angle_brackets_are_no_way_round(self):
        self.refused("src/base/d.cc", "#  include <kv/b.cc>\n", "src/base/d.cc:1:")

    def test_relative_paths_are_no_way_round(self):
        self.refused("src/base/d.cc", '#include "../kv/b.cc"\n', "path from src/")
        self.refused("src/base/d.cc", '#include "base/../kv/b.cc"\n', "src/base/d.cc:1:")

    def test_deeper_folders_belong_to_their_room(self):
        self.refused("src/base/deep/d.h", '#include "kv/b.cc"\n', "src/base/deep/d.h:1: base may not")

    def test_a_wing_sits_on_its_folder_and_nothing_sits_on_it(self):
        self.refused("src/capi/e.cc", '#include "kv/c.h"\n', "src/capi/e.cc:1: capi may not include kv/c.h")
        self.refused("src/serve/d.cc", '#include "capi/d.h"\n', "src/serve/d.cc:1: serve may not include capi/d.h")
        self.refused("src/base/d.cc", '#include "capi/d.h"\n', "src/base/d.cc:1:")

    def test_a_folder_that_is_not_in_the_house(self):
        self.refused("src/shed/d.cc", "", "shed is not a folder of the house")

    def test_an_empty_tree_is_not_a_pass(self):
        self.assertNotEqual(run("check-layers", {"README.md": ""})[0], 0)


class Lengths(unittest.TestCase):
    def test_limits(self):
        for lines, code, words in ((600, 0, ""), (601, 0, "wants splitting"), (801, 1, "is refused")):
            got, out = run("check-lengths", SOUND | {"src/base/long.cc": "\n" * lines})
            self.assertEqual(got, code, out)
            self.assertIn(words, out)
            self.assertEqual(bool(out), bool(words))


class Docs(unittest.TestCase):
    def test_a_sound_page_passes(self):
        self.assertEqual(run("check-docs", SOUND)[0], 0)

    def test_dead_targets(self):
        for text in ("[x](gone.md)", "[x](page.md#gone)", "`src/gone.h`"):
            code, out = run("check-docs", SOUND | {"README.md": f"\n{text}\n"} if "page.md" not in text
                            else SOUND | {"docs/other.md": f"\n{text}\n"})
            self.assertEqual(code, 1, text)
            self.assertIn(".md:2: no such", out)


if __name__ == "__main__":
    unittest.main()
