"""A gallery as a Space of the Hugging Face Hub, by Gradio: who of the rendered people of the sample is it?"""

import io
import os

import gradio as gr
from PIL import Image

from msinet_timm.datasets import create_dataset
from msinet_timm.errors import InputError
from msinet_timm.gallery import Gallery

gallery = Gallery(os.environ.get('GALLERY', 'people.gallery'), 'msinet_x1_0.rendered_128x64')
records = create_dataset('sample').gallery
# passes over what is there: a Space that was stopped meanwhile goes on
gallery.add_crops([r.path for r in records], camera=[r.camera for r in records])


def search(image, count, cameras):
    """Crops that look most like an image, with what is known of them."""
    if image is None:
        raise gr.Error('Give an image first.')
    try:
        found = gallery.search(image, int(count), camera=cameras or None)
        images = [Image.open(io.BytesIO(gallery.jpeg(crop.id))) for crop, _, _ in found]
    except InputError as e:
        raise gr.Error(str(e)) from e
    return [(i, f'camera {c.camera}, {d:.3f}: {v}') for i, (c, d, v) in zip(images, found, strict=True)]


demo = gr.Interface(
    search,
    [
        gr.Image(type='pil', label='Who is it?'),
        gr.Slider(1, 50, 10, step=1, label='How many'),
        gr.CheckboxGroup([*gallery.stats()['cameras']], label='Cameras (none: all)'),
    ],
    gr.Gallery(label='Nearest first', columns=5),
    title='People found again by an image',
    flagging_mode='never',
    analytics_enabled=False,
)

if __name__ == '__main__':
    demo.launch()
