"""Everything behind the ``lazydeps`` command; needs the ``build`` extra. The runtime never imports it."""
