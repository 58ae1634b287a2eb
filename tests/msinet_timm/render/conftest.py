import pytest

from msinet_timm.errors import InputError
from msinet_timm.render import raster as module


@pytest.fixture(scope='module')
def opengl():
    """What draws; tests are skipped where there is no OpenGL."""
    try:
        module.load_renderer()
    except InputError as e:
        pytest.skip(str(e))
    return module


@pytest.fixture(scope='module')
def raster(opengl):
    """The same, for people."""
    pytest.importorskip('anny')
    return opengl
