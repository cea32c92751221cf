"""What every request passes before an endpoint sees it: plain ASGI classes, outermost first in `stack`."""
