"""talklip_ray: dub video at catalog scale, lips included."""

__version__ = "0.1.0"
