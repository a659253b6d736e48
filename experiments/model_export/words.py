"""The words of a model card that are the same for every model of a kind."""

TITLES = {
    "generator": "Fundus photographs from findings, {size} px",
    "autoencoder": "Autoencoder of fundus photographs, {size} px",
    "classifier": "Findings of fundus photographs, {size} px",
}
PHANTOM_TITLES = {
    "generator": "Phantoms of the fundus from findings, {size} px",
    "autoencoder": "Autoencoder of phantoms of the fundus, {size} px",
    "classifier": "Findings of phantoms of the fundus, {size} px",
}
ONLY_PHANTOMS = (
    "**This model was trained on procedural phantoms only, images drawn by the code of SynFundus and no photographs: "
    "it is for trying the software, not for research on disease.**"
)
INTRODUCTIONS = {
    "generator": "A latent diffusion model that paints images of the fundus of the eye, {size} x {size} pixels, given "
    "the names of findings. Whether a finding that is asked for is to be seen in them, the export does not examine: "
    "see the known limits.",
    "autoencoder": "An autoencoder of images of the fundus of the eye: images to latents, on which a diffusion model "
    "can be trained, and back. It was trained at {size} x {size} pixels.",
    "classifier": "A network that gives a probability to each level of findings on an image of the fundus of the eye, "
    "seen at {size} x {size} pixels.",
}
USE = "For research. Not for diagnosis, nor for any decision on a person's care."
PHANTOM_USE = "For trying the software. Not for research on disease, not for diagnosis, nor for any decision on care."
PURPOSE = (
    "For research and teaching: software for fundus photographs, synthetic data, methods. It is no medical device."
)
PHANTOM_PURPOSE = "For trying, teaching and testing software. It has seen no photograph, and is no medical device."
LIMITS = {
    "generator": (
        "**A finding that is asked for need not be visible.** Labels condition the image; that they do so rightly, or "
        "at all, is not proven by the export, which compares weights alone. Evidence is a set painted by "
        "`+exp=synthesize`, annotated by `+exp=annotate` with a classifier of photographs, and compared with what was "
        "asked for (`docs/annotation.md` of SynFundus); without it have images looked at before they stand for one.",
        "Guidance (`guidance_scale` above 1) strengthens what is asked for: it shows a finding more plainly than "
        "photographs do, and makes images more alike.",
        "What is not asked for occurs as often as in the training data, and not as in a population.",
        "A generator can reproduce photographs that it was trained on. Whether this one does was not examined: do not "
        "hand it on before that, where the photographs are of patients.",
        "It paints {size} x {size} pixels. What is smaller than a pixel there is not in them.",
    ),
    "autoencoder": (
        "What its latents cannot hold, as small lesions and thin vessels may be, is smoothed away.",
        "Photographs can be recovered from their latents: treat the latents of patients as their photographs.",
    ),
    "classifier": (
        "Probabilities are what the network gives. On photographs of other cameras and other people they can be far "
        "from how often a finding is there.",
        "It was measured on photographs like those of its training alone. Test it on your own before anything is said "
        "of what it can do.",
        "It answers whatever it is shown, fundus or not.",
    ),
}
EVALUATED = (
    "Area under the ROC curve on {where}, with 95 % intervals over patients in brackets. It is undefined where there "
    "are not both, images with the finding and images without. There is no interval where fewer than 90 % of the "
    "bootstrap's replicates had a value, which happens where few patients have the finding."
)
ROWS = {
    "dr_grade_referable": "`dr_grade_referable`: diabetic retinopathy of grade 2, moderate, or higher, against less.",
    "macro": "`macro`: the mean over the findings that have a value; it counts images of which any finding is known, "
    "and those with any at level 1 or higher.",
}
