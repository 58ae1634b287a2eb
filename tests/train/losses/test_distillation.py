"""What a student takes over from a teacher: the loss by hand, who trains, and teachers that do not fit."""

import math

import pytest
import timm
import torch

import msinet_timm  # noqa: F401
from msinet_timm.errors import InputError
from msinet_train.losses.distillation import Teacher, similarity_distillation
from msinet_train.losses.task import ReIDTask
from msinet_train.models import create_training_model

CONFIG = dict(input_size=(3, 64, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.2, 0.3))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(student, teacher, temperature):
    """Row by row, from the definition."""
    student, teacher, rows = student.tolist(), teacher.tolist(), []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        shares = []
        for features in (teacher, student):
            powers = [math.exp(cosine(features[i], features[j]) / temperature) for j in others]
            shares.append([p / sum(powers) for p in powers])
        rows.append(sum(p * math.log(p / q) for p, q in zip(*shares, strict=True)))
    return sum(rows) / len(rows)


@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_loss_by_hand(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (5, 8))
    found = similarity_distillation(student, teacher, temperature)
    assert found.item() == pytest.approx(by_hand(student, teacher, temperature), rel=1e-9)
    assert similarity_distillation(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-12)


def test_gradients_bring_the_student_nearer_and_leave_the_teacher():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(8, 16, generator=generator).requires_grad_() for _ in range(2))
    before = similarity_distillation(student, teacher)
    before.backward()
    assert teacher.grad is None
    with torch.no_grad():
        assert similarity_distillation(student - 0.05 * student.grad / student.grad.norm(), teacher) < before


def student_model(name):
    torch.manual_seed(0)
    return create_training_model(name, 4, height=64, width=32)


def teacher_model(name='test_resnet', **options):
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=0, **options)


@pytest.mark.parametrize('student', ['msinet_x0_25', 'test_resnet'])
def test_the_task_adds_what_the_teacher_teaches(student):
    model = student_model(student)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    teacher = teacher_model(pretrained_cfg_overlay=dict(mean=mean, std=std))
    images, labels = torch.randn(8, 3, 64, 32), torch.arange(4).repeat(2)
    plain = ReIDTask(model)
    taught = ReIDTask(model, teacher=Teacher(teacher, CONFIG), teacher_weight=3.0)
    taught.train()
    assert not any(module.training for module in taught.teacher.modules()) and model.training
    assert not any(p.requires_grad for p in taught.teacher.parameters())
    assert {id(p) for p in taught.parameters() if p.requires_grad} == {id(p) for p in plain.parameters()}
    state = {k: v.clone() for k, v in model.state_dict().items()}
    without = plain(images, labels)
    model.load_state_dict(state)
    output = taught(images, labels)
    model.load_state_dict(state)
    branches = model.forward_branches(images)
    features = [f for f in (branches.global_feature, branches.local_feature) if f is not None]
    own, its = (
        [torch.tensor(v).view(1, 3, 1, 1) for v in pair] for pair in ((CONFIG['mean'], CONFIG['std']), (mean, std))
    )
    pixels = images * own[1] + own[0]
    expected = similarity_distillation(torch.cat(features, 1), teacher.eval()((pixels - its[0]) / its[1]))
    assert output['distillation'].item() == pytest.approx(expected.item(), rel=1e-4)
    assert output['loss'].item() == pytest.approx(without['loss'].item() + 3 * expected.item(), rel=1e-4)


def test_teachers_that_do_not_fit():
    with pytest.raises(InputError, match=r'^it cannot embed images of the input size.* gives \[1, .*\] for'):
        Teacher(timm.create_model('msinet_x0_25', num_classes=0, global_pool=''), CONFIG)
