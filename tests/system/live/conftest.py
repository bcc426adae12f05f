"""What the tests with a real OAR tell at the end of a run."""

from tests.conftest import TOLD as TOLD
