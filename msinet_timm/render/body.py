"""Bodies: shapes from anny, and linear blend skinning for the body and all that it wears."""

import functools
from dataclasses import dataclass

import numpy as np

from msinet_timm.errors import needs

from .meshes import Mesh, normals

__all__ = ['BONES', 'Body', 'load_body', 'load_rig', 'pose_transforms', 'skin']

_SIDED = ('pelvis', 'upperleg01', 'upperleg02', 'lowerleg01', 'lowerleg02', 'foot')
_SIDED += ('clavicle', 'shoulder01', 'upperarm01', 'upperarm02', 'lowerarm01', 'lowerarm02', 'wrist')
BONES = ('root', 'spine05', 'spine04', 'spine03', 'spine02', 'spine01', 'neck01', 'neck02', 'neck03', 'head')
BONES += tuple(f'{name}.{side}' for name in _SIDED for side in 'LR')

_CLOSED = 0.25


@dataclass
class Body:
    """A body in anny's rest pose: z is up, it faces -y, its left hand is at +x. All lengths in metres.

    Attributes:
        mesh: with the arrays `position` [V, 3], `normal` [V, 3] and `weights` [V, len(BONES)].
        heads: where each bone of `BONES` starts.
        parents: number of each bone's parent in `BONES`, -1 for the root. Parents come before children.
        eyes: middle between the two eyes.
        carries: a bag, which decides what the arms can do; None for none.
        beside: of all that is worn, parts from this number on are not on the body, see `garments.dress`.
    """

    mesh: Mesh
    heads: dict[str, np.ndarray]
    parents: list[int]
    eyes: np.ndarray
    carries: str | None = None
    beside: int = 1 << 30

    def weight(self, *names: str) -> np.ndarray:
        """Summed skinning weight [V] of all bones whose names start with one of `names`."""
        return self.mesh.data['weights'][:, [b.startswith(names) for b in BONES]].sum(1)


@functools.lru_cache(maxsize=1)
def load_rig():
    """anny's model; its triangles; its bones and their parents; weights [V, len(BONES)] of `BONES` on its vertices."""
    with needs('render', 'rendering'):
        import anny
        import torch
    model = anny.Anny(skinning_method='lbs')
    still, flat = torch.eye(4)[None], [s.flatten(1) for s in (model.blendshapes, model.bone_heads_blendshapes)]

    def rest(shares: torch.Tensor) -> dict[str, torch.Tensor]:
        points, heads = ((shares @ shapes).reshape(1, -1, 3) for shapes in flat)
        vertices, heads = model.template_vertices + points, model.template_bone_heads + heads
        return {'rest_vertices': vertices, 'rest_bone_heads': heads, 'rest_bone_poses': still}

    # `skin` poses people, later: how bones are turned is not asked for.
    model.get_rest_model = rest
    model.get_bone_transforms = lambda *_, **options: (still, still)
    model.get_skinned_vertices = lambda rest_vertices, bone_transforms: rest_vertices
    labels, parents = list(model.bone_labels), list(model.bone_parents)
    indices, values = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy()
    merged, weights = [], np.zeros((len(indices), len(BONES)))
    for bone in range(len(labels)):
        while labels[bone] not in BONES:  # fingers follow the wrist, toes the foot, eyes the head
            bone = parents[bone]
        merged.append(BONES.index(labels[bone]))
    for k in range(indices.shape[1]):
        np.add.at(weights, (np.arange(len(weights)), np.array(merged)[indices[:, k]]), values[:, k])
    return model, model.get_triangular_faces().numpy(), labels, parents, weights


def load_body(phenotype: dict[str, float]) -> Body:
    """Shapes a body.

    Args:
        phenotype: anny's parameters (gender, age, muscle, weight, height, proportions), each from 0 to 1.

    Raises:
        InputError: anny is not installed.
    """
    import torch

    model, faces, labels, parents, weights = load_rig()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other images on other machines
    with torch.no_grad():
        out = model(pose_parameters=None, phenotype_kwargs=phenotype)
    torch.set_num_threads(threads)
    position = out['rest_vertices'][0].numpy().astype(np.float32)
    head = dict(zip(labels, out['rest_bone_heads'][0].numpy(), strict=True))
    for side in 'LR':  # anny spreads its fingers: a hand that is half closed is smaller
        hand = _CLOSED * weights[:, BONES.index(f'wrist.{side}'), None].astype(np.float32)
        position = position - hand * (position - head[f'wrist.{side}'].astype(np.float32))
    up = [parents[labels.index(b)] for b in BONES]
    data = {'position': position, 'normal': normals(position, faces), 'weights': weights.astype(np.float32)}
    return Body(
        Mesh(faces, data),
        {b: head[b] for b in BONES},
        [BONES.index(labels[p]) if p is not None and p >= 0 else -1 for p in up],
        (head['eye.L'] + head['eye.R']) / 2,
    )


def pose_transforms(body: Body, pose: dict[str, np.ndarray]) -> np.ndarray:
    """Transforms [len(BONES), 3, 4] from rest to pose, each bone turning about its head, children following."""
    out = np.zeros((len(BONES), 4, 4))
    for i, name in enumerate(BONES):
        local = np.eye(4)
        if name in pose:
            local[:3, :3] = pose[name]
            local[:3, 3] = body.heads[name] - pose[name] @ body.heads[name]
        out[i] = local if body.parents[i] < 0 else out[body.parents[i]] @ local
    return out[:, :3]


def skin(mesh: Mesh, transforms: np.ndarray) -> dict[str, np.ndarray]:
    """The posed `position` [V, 3], and `normal` [V, 3] if there is one, of a mesh that has `weights`."""
    weights = mesh.data['weights']
    blend = (weights @ transforms.reshape(len(BONES), 12).astype(weights.dtype)).reshape(-1, 3, 4)
    names = [name for name in ('position', 'normal') if name in mesh.data]
    posed = {name: np.einsum('vij,vj->vi', blend[:, :, :3], mesh.data[name]) for name in names}
    posed['position'] += blend[:, :, 3]
    return posed
