"""Are the examples of docs/store-api.md the files in examples/, and do these do what they say?

    examples_test.py BUILT_C_EXAMPLE
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
C_PROGRAM = sys.argv.pop()


class Examples(unittest.TestCase):
    def test_the_page_shows_the_files(self):
        page = (ROOT / "docs/store-api.md").read_text()
        for language, name in (("c", "store.c"), ("python", "store.py")):
            shown = re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)
            self.assertEqual(shown, [(ROOT / "examples" / name).read_text()], name)

    def run_twice(self, *command):
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):  # what was kept does not hurt
                done = subprocess.run([*command, folder + "/store"], capture_output=True, text=True, timeout=120)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                yield done.stdout

    def test_in_c(self):
        for out in self.run_twice(C_PROGRAM):
            self.assertEqual(out, "1 block here; ok: keys and values\n")

    def test_in_python(self):
        for out in self.run_twice(sys.executable, ROOT / "examples/store.py"):
            self.assertEqual(out, "1 block here\ntokens 0..63 [4096, 6144] keys\n")


if __name__ == "__main__":
    unittest.main()
