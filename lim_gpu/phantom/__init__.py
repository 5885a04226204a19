"""Procedural CT, for trials and tests: bodies, angiograms with emboli and nodules, and files of both."""

from lim_gpu.phantom.angiogram import Angiogram as Angiogram
from lim_gpu.phantom.angiogram import angiogram as angiogram
from lim_gpu.phantom.bodies import NOISE as NOISE
from lim_gpu.phantom.bodies import phantom as phantom
from lim_gpu.phantom.files import DATA_SET as DATA_SET
from lim_gpu.phantom.files import EMBOLI as EMBOLI
from lim_gpu.phantom.files import NODULES as NODULES
from lim_gpu.phantom.files import SCANS as SCANS
from lim_gpu.phantom.files import PhantomVolume as PhantomVolume
from lim_gpu.phantom.files import write_angiograms as write_angiograms
from lim_gpu.phantom.files import write_data_set as write_data_set
