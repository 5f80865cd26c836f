"""ComfyUI: the nodes that read concept files there, and the export that carries them."""
