"""The door to moving pictures: what other packages import."""

from talklip_ray.media.assembling import assemble
from talklip_ray.media.color import ColorTags
from talklip_ray.media.container import File
from talklip_ray.media.picture import Picture
from talklip_ray.media.probing import VideoInfo, probe_video
from talklip_ray.media.reading import read_pictures, read_pictures_backwards
from talklip_ray.media.sound import Sound
from talklip_ray.media.writing import PartWriter

__all__ = [
    "ColorTags",
    "File",
    "PartWriter",
    "Picture",
    "Sound",
    "VideoInfo",
    "assemble",
    "probe_video",
    "read_pictures",
    "read_pictures_backwards",
]
