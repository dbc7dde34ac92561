"""Check an installed package: python -I check_install.py IMAGE {base, app}, outside the checkout.

`base`, after `pip install .`: the built-in model answers, and imports nothing of an extra.
`app`, after `pip install '.[app]'`: the app is built as well.
"""

import sys
from importlib.metadata import version

import paligemma
from paligemma import PaliGemma

EXTRAS = {"gradio", "transformers", "pytest", "peft", "pydantic", "matplotlib", "cv2"}

image, extra = sys.argv[1:]
assert "site-packages" in paligemma.__file__, paligemma.__file__
assert version("paligemma-from-scratch") == paligemma.__version__

pg = PaliGemma.load()
reply = pg.generate(image, "caption en")
assert reply.text == "a red anchor and a brown wheel on a teal background", reply.text
imported = EXTRAS & {name.split(".")[0] for name in sys.modules}
assert not imported, f"inference imports {sorted(imported)}"

if extra == "app":
    from paligemma.ui.layout import build_app
    from paligemma.ui.model_manager import ModelManager

    app = build_app(ModelManager(pg))
    assert "/detect" in app.get_api_info()["named_endpoints"]
print(f"Installed with {extra}: {reply.text!r}")
