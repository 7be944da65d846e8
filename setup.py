"""Installation of cprune_tf: compiler-informed pruning of Keras CNNs for one given device."""

import pathlib

import setuptools

_ROOT = pathlib.Path(__file__).parent

# Lower bounds here, exact versions in constraints.txt. Two pins are hard: this apache-tvm crashes
# while committing tuning records with any later apache-tvm-ffi.
_REQUIRES = [
    "absl-py>=2.1",
    "ai-edge-litert>=2.1",
    "apache-tvm==0.27.0.post1",
    "apache-tvm-ffi==0.1.14.post1",
    "cattrs>=24.1",
    "cloudpickle>=3.0",
    "flatbuffers>=24.3",
    "h5py>=3.12",
    "jinja2>=3.1",
    "keras>=3.10",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "pillow>=11.0",
    "psutil>=6.0",
    "rich>=13.9",
    "scipy>=1.15",
    "tensorflow>=2.19",
    "xgboost-cpu>=3.0",
    "ziglang>=0.13",
]

_DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]

setuptools.setup(
    name="cprune_tf",
    version="0.1.0",
    description="Prunes Keras CNNs with the compiler in the loop, for one given device",
    long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "LICENSES.md"],
    packages=setuptools.find_packages(include=["cprune_tf", "cprune_tf.*"]),
    package_data={
        "cprune_tf": [
            "py.typed",
            "**/*.npz",
            "**/*.keras",
            "**/*.j2",
            "**/LICENSE*",
            "compiler/programs/**/*",
        ]
    },
    python_requires=">=3.10,<3.14",
    install_requires=_REQUIRES,
    extras_require={
        # Of the version that the CUDA runtime in apache-tvm's wheel is built with.
        "cuda": [
            "cuda-bindings>=13.0,<14",
            "nvidia-cuda-cccl>=13.0,<14",
            "nvidia-cuda-nvrtc>=13.0,<14",
            "nvidia-cuda-runtime>=13.0,<14",
        ],
        "docs": _DOCS,
        "int8": ["ai-edge-quantizer>=0.10"],
        # What image models of keras-hub need. It must itself be installed with --no-deps: it asks
        # for tensorflow-text and other packages that only its text models need.
        "keras_hub": ["regex>=2024.11", "tokenizers>=0.21"],
        "ray": ["ray>=2.40"],
        "tensorboard": ["tensorboard>=2.19"],
        "tflite": ["tflite>=2.18"],
        "tracker": ["tornado>=6.4"],
        "tfds": ["tensorflow-datasets>=4.9"],
        # What tensorflow-model-optimization needs. It must itself be installed with --no-deps: it
        # asks for absl-py 1, and runs with the absl-py 2 that all else needs.
        "tfmot": ["dm-tree>=0.1.9", "six>=1.14", "tf_keras>=2.19"],
        "dev": [
            *_DOCS,
            "ai-edge-quantizer>=0.10",
            "hypothesis>=6.100",
            "mypy>=1.13",
            "pylint>=4.0",  # its search for duplicates alone
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "setuptools>=65.5",  # tests build the wheel and the sdist
            "tflite>=2.18",
            'tomli>=2.0; python_version < "3.11"',  # benchmarks/claims.toml
            "tornado>=6.4",  # TVM's RPC tracker
            "vulture>=2.14",
        ],
    },
    entry_points={
        "console_scripts": [
            "cprune-prune = cprune_tf.cli.prune:run",
            "cprune-compare = cprune_tf.cli.compare:run",
            "cprune-export = cprune_tf.cli.export:run",
            "cprune-quantize = cprune_tf.cli.quantize:run",
            "cprune-report = cprune_tf.cli.report:run",
            "cprune-profile = cprune_tf.cli.profile:run",
            "cprune-staircase = cprune_tf.cli.staircase:run",
            "cprune-inspect = cprune_tf.cli.inspect_model:run",
            "cprune-benchmark = cprune_tf.cli.benchmark:run",
            "cprune-compare-tflite = cprune_tf.cli.compare_tflite:run",
            "cprune-doctor = cprune_tf.cli.doctor:run",
            "cprune-make-bundle = cprune_tf.cli.make_bundle:run",
            "cprune-train = cprune_tf.cli.train:run",
            "cprune-export-programs = cprune_tf.cli.export_programs:run",
        ],
    },
)
