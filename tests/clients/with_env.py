#!/usr/bin/env python3
"""with_env.py NAME SCRIPT [ARGUMENT...]: runs SCRIPT PYTHON [ARGUMENT...], where PYTHON is the interpreter of the environment that
scripts/python_env NAME makes."""
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
made = subprocess.run([HERE.parents[1] / "scripts" / "python_env", sys.argv[1]], stdout=subprocess.PIPE, text=True, check=True)
python = made.stdout.splitlines()[-1]
sys.exit(subprocess.run([sys.executable, HERE / sys.argv[2], python, *sys.argv[3:]]).returncode)
