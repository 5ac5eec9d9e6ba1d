"""MathJax, which draws the formulas: one file of the npm package."""

from ..npm import Package

SCRIPT = "tex-svg-full.js"  # every TeX extension, and letters drawn as paths: it needs no other file
MATHJAX = Package(
    "mathjax",
    "3.2.2",
    sha256="1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
    members={f"package/es5/{SCRIPT}": SCRIPT, "package/LICENSE": "LICENSE"},
    need="formulas need MathJax",
    option="--mathjax FILE",
)
