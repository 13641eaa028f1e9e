"""The page's pure modules, format.js and words.js, say what page_words.mjs promises: in node, else in Chromium."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "api" / "page"
PROMISES = HERE / "page_words.mjs"
AT_LEAST = 35  # promises: a file that checks nothing must not pass
TIMEOUT_S = 60


def test_words_and_formats(tmp_path):
    node = shutil.which("node")
    report = json.loads(_in_node(node, tmp_path) if node else _in_chromium(tmp_path))
    assert report["wrong"] == []
    assert report["checked"] >= AT_LEAST


def _in_node(node: str, folder: Path) -> str:
    (folder / "package.json").write_text('{"type": "module"}')  # or node reads .js as CommonJS
    for name in ("format.js", "words.js"):
        shutil.copy(PAGE / name, folder)
    main = f"import {{check}} from '{PROMISES.as_uri()}'; console.log(JSON.stringify(await check('{folder.as_uri()}')))"
    return subprocess.run(
        [node, "--input-type=module", "-e", main], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout


def _in_chromium(folder: Path) -> str:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert chromium, "neither node nor chromium is here: install one, or name a browser in CHROMIUM"
    document = folder / "words.html"
    document.write_text(
        "<!doctype html><pre></pre><script type='module'>"
        f"import {{check}} from '{PROMISES.as_uri()}';"
        f"document.querySelector('pre').textContent = JSON.stringify(await check('{PAGE.as_uri()}'))</script>"
    )
    command = [chromium, "--headless=new", "--no-sandbox", "--allow-file-access-from-files", "--dump-dom"]
    command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=5000", document.as_uri()]
    dumped = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
    found = re.search(r"<pre>(.*)</pre>", dumped, re.DOTALL)
    assert found, dumped
    return html.unescape(found.group(1))
