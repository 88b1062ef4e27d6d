"""The one thing setup.cfg cannot say: what is compiled, and left out where it cannot be."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "ingestor.encode._fast",
            ["ingestor/encode/_fast.pyx"],
            depends=[
                "ingestor/encode/_layout.pxd",
                "ingestor/encode/_packing.pxi",
                "ingestor/encode/_text.pxd",
            ],
            extra_compile_args=["-O3"],
            optional=True,
        ),
        Extension(
            "ingestor.encode._parse",
            ["ingestor/encode/_parse.pyx"],
            depends=["ingestor/encode/_layout.pxd"],
            # The fields of a record lie at multiples of their sizes, packed or not.
            extra_compile_args=["-O3", "-Wno-address-of-packed-member"],
            optional=True,
        ),
        Extension(
            "ingestor.model._keys",
            ["ingestor/model/_keys.pyx"],
            extra_compile_args=["-O3"],
            optional=True,
        ),
    ]
)
