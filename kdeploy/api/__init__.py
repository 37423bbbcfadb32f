"""The Python face: the commands as functions, on live objects; `import kdeploy` names them."""
