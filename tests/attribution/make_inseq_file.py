"""Makes `inseq_file.json` with Inseq 0.7.1 itself: python tests/attribution/make_inseq_file.py."""

from pathlib import Path

NAN = float("nan")


def main():
    import torch
    from inseq import FeatureAttributionOutput
    from inseq.data.attribution import CoarseFeatureAttributionSequenceOutput as Coarse
    from inseq.utils.typing import TokenWithId

    def tokens(*names):
        return [TokenWithId(name, len(name)) for name in names]

    decoder_only = Coarse(
        source=tokens("once", "upon"),
        target=tokens("once", "upon", "a", "time"),
        target_attributions=torch.tensor([[1.0, 3], [2, 4], [NAN, -5], [NAN, NAN]]),
        step_scores={"probability": torch.tensor([0.25, 0.5])},
        attr_pos_start=2,
    )
    encoder_decoder = Coarse(
        source=tokens("un", "chat"),
        target=tokens("<pad>", "a", "cat"),
        source_attributions=torch.tensor([[1.0, 2], [3, 4]]),
        target_attributions=torch.tensor([[5.0, 6], [NAN, 7], [NAN, NAN]]),
        attr_pos_start=1,
    )
    info = {
        "attribution_method": "occlusion",
        "model_name": "some/model",
        "input_texts": ["once upon", "un chat"],
        "generated_texts": ["once upon a time", "a cat"],
    }
    output = FeatureAttributionOutput([decoder_only, encoder_decoder], info=info)
    output.save(Path(__file__).with_name("inseq_file.json"), overwrite=True)


if __name__ == "__main__":
    main()
