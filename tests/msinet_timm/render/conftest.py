import pytest

from msinet_timm.errors import InputError


@pytest.fixture(scope='module')
def raster():
    """The raster renderer; tests are skipped where there is no OpenGL."""
    pytest.importorskip('anny')
    from msinet_timm.render.image import load

    try:
        return load('raster')
    except InputError as e:
        pytest.skip(str(e))
