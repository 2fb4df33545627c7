#!/usr/bin/python3
"""Counts the test cases in JUnit files: the last line is 'N passed, N failed'. Fails when none ran or one failed. A file
that is missing stands for a suite that did not come that far, and is one failure."""
import os
import sys
import xml.etree.ElementTree as ElementTree

passed = failed = 0
for path in sys.argv[1:]:
    if not os.path.exists(path):
        print(f"{path}: the suite did not end")
        failed += 1
        continue
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is None:
            passed += 1
print(f"{passed} passed, {failed} failed")
sys.exit(0 if passed and not failed else 1)
