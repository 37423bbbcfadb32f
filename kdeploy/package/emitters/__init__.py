"""One file a place that a bundle goes to: what `kdeploy package --emit NAME` writes for it."""
