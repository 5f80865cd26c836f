"""Two concepts trained on the base that comes with cdtool, merged, and sampled together."""

import cdtool
from cdtool.store.bases import MINI  # the folder of the base that comes along; its sample photos lie beside it

few = {"base": "mini", "steps": 20, "prior": "none"}
dog = cdtool.train(MINI.parent / "photos" / "dog", token="V* dog", name="my-dog", **few)
gate = cdtool.train(MINI.parent / "photos" / "moongate", token="moongate", name="my-gate", **few)

images = cdtool.sample(dog, "a V* dog on the beach", n=2, steps=10)
pair = cdtool.merge(dog, gate, name="my-pair", force=True)
images += cdtool.sample(pair, "a V1 dog in front of a moongate", n=2, steps=10)
for number, image in enumerate(images, 1):
    image.save(f"quickstart-{number}.png")
