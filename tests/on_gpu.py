"""What the tests on a real GPU share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def faults_show_where_they_arise(request):
    """Kernels fail behind one's back; and after an illegal access nothing works any more in this process."""
    yield
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        pytest.exit(f"the GPU was lost in {request.node.nodeid}: {str(error).splitlines()[0]}", returncode=4)
