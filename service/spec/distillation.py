"""Learning from another model's answers."""

from pydantic import Field

from service.spec.part import Part


class Distillation(Part):
    """A trained model's softened answers about the same deformed images beside the labels (Hinton, Vinyals and Dean
    2015, "Distilling the knowledge in a neural network")."""

    teacher: str = Field(default="latest", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Model that is learnt from, a committee perhaps: its id, `latest` or an alias. A job keeps the id that these stand
    for when it is submitted."""
    share: float = Field(default=0.9, ge=0, le=1)
    """Weight of the teacher's answers in what is learnt; that of the labels is the rest."""
    temperature: float = Field(default=2.0, gt=0, le=1000)
    """By which the teacher's logits are divided before softmax; the learning network's are not."""
