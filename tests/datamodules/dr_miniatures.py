"""Miniatures of sets of diabetic retinopathy and of two sets of classes in folders, in the real layouts."""

import numpy as np
import openpyxl
import pytest
from PIL import Image

HEADER = (
    "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level,Clarity,"
    "Field definition,Artifact\n"
)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def eyepacs(save_all):
    root = save_all("train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg", "test/1_left.jpeg",
                    "test/1_right.jpeg")  # fmt: skip
    write(root / "trainLabels.csv", "image,level\n10_left,0\n10_right,4\n13_left,1\n")
    write(root / "retinopathy_solution.csv", "image,level,Usage\n1_left,2,Private\n1_right,0,Public\n")
    return root


@pytest.fixture
def messidor2(save_all):
    root = save_all("IMAGES/20051020_43808_0100_PP.png", "IMAGES/20051020_43832_0100_PP.png", "IMAGES/IM000001.JPG",
                    "IMAGES/IM000002.JPG")  # fmt: skip
    write(
        root / "messidor_data.csv",
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
        "20051020_43808_0100_PP.png,0,0,1\n20051020_43832_0100_PP.png,2,1,1\n"
        "IM000001.jpg,,,0\nIM000002.jpg,4,0,1\n",
    )
    write(
        root / "messidor-2.csv",
        "left;right\n20051020_43808_0100_PP.png;20051020_43832_0100_PP.png\nIM000002.JPG;IM000001.JPG\n",
    )
    return root


@pytest.fixture
def idrid(save_all):
    images = "B. Disease Grading/1. Original Images"
    root = save_all(f"{images}/a. Training Set/IDRiD_001.jpg", f"{images}/a. Training Set/IDRiD_002.jpg",
                    f"{images}/b. Testing Set/IDRiD_001.jpg", f"{images}/b. Testing Set/IDRiD_002.jpg")  # fmt: skip
    truth = root / "B. Disease Grading" / "2. Groundtruths"
    write(
        truth / "a. IDRiD_Disease Grading_Training Labels.csv",
        "Image name,Retinopathy grade,Risk of macular edema ,,,,,\nIDRiD_001,3,2,,,,,\nIDRiD_002,0,0,,,,,\n,,,,,,,\n",
    )
    write(
        truth / "b. IDRiD_Disease Grading_Testing Labels.csv",
        "Image name,Retinopathy grade,Risk of macular edema \nIDRiD_001,4,1\nIDRiD_002,2,2\n",
    )
    return root


@pytest.fixture
def ddr(save_all):
    names = ("train/007-0004-000", "train/007-0007-000", "valid/007-0025-000", "test/20170323173213125")
    root = save_all(*(f"DR_grading/{name}.jpg" for name in names))
    write(root / "DR_grading" / "train.txt", "007-0004-000.jpg 0\n007-0007-000.jpg 5\n")
    write(root / "DR_grading" / "valid.txt", "\ufeff007-0025-000.jpg 2\n\n")
    write(root / "DR_grading" / "test.txt", "20170323173213125.jpg 4")
    return root


@pytest.fixture
def ddr_segmentation(tmp_path, save_photograph):
    """One photograph of 300 x 200 a split; lesions in the left half, the soft exudate above the haemorrhage."""
    boxes = {"EX": (0, 0), "HE": (80, 110), "MA": (0, 0), "SE": (100, 140)}
    folders = {"train": "label", "valid": "segmentation label", "test": "label"}
    for split, folder in folders.items():
        base = tmp_path / "lesion_segmentation" / split
        save_photograph(base / "image" / f"007-{split}-100.jpg", width=300, height=200, radius=90)
        for lesion, (start, stop) in boxes.items():
            mask = np.zeros((200, 300), np.uint8)
            mask[start:stop, 100:140] = 255
            (base / folder / lesion).mkdir(parents=True)
            Image.fromarray(mask).save(base / folder / lesion / f"007-{split}-100.tif")
    write(tmp_path / "lesion_segmentation" / "valid" / "label" / "007-valid-100.xml", "<annotation/>")
    return tmp_path


@pytest.fixture
def deepdrid(save_all):
    base = "regular_fundus_images"
    training, validation = f"{base}/regular-fundus-training", f"{base}/regular-fundus-validation"
    evaluation = f"{base}/Online-Challenge1&2-Evaluation"
    root = save_all(f"{training}/Images/56/56_l1.jpg", f"{training}/Images/56/56_r3.jpg",
                    f"{training}/Images/56/56_r2.jpg", f"{validation}/Images/265/265_l1.jpg",
                    f"{evaluation}/Images/347/347_l1.jpg", f"{evaluation}/Images/347/347_r1.jpg")  # fmt: skip
    write(
        root / training / "regular-fundus-training.csv",
        HEADER + "56,56_l1,\\regular-fundus-training\\56\\56_l1.jpg,0,1,,2,8,8,0\n"
        "56,56_r3,\\regular-fundus-training\\56\\56_r3.jpg,0,1,,2,4,8,1\n"
        "56,56_r2,\\regular-fundus-training\\56\\56_r2.jpg,1,,2,2,10,8,0\n",
    )
    write(
        root / validation / "regular-fundus-validation.csv",
        HEADER + "265,265_l1,\\regular-fundus-validation\\265\\265_l1.jpg,1,3,,4,4,8,10\n",
    )
    book = openpyxl.Workbook()
    for row in (("image_id", "DR_Levels"), ("347_l1", 0), ("347_r1", 4)):
        book.active.append(row)
    book.save(root / evaluation / "Challenge1_labels.xlsx")
    return root


@pytest.fixture
def jsiec(save_all):
    folders = ("0.0.Normal", "0.3.DR1", "2.0.BRVO", "2.1.CRVO", "7.ERM", "9.Pathological myopia",
               "10.0.Possible glaucoma", "10.1.Optic atrophy", "29.1.Blur fundus with suspected PDR",
               "17.Something new")  # fmt: skip
    return save_all(*(f"{folder}/a.JPG" for folder in folders), "1000images/a.JPG")


@pytest.fixture
def retina_kaggle(save_all):
    return save_all("dataset/1_normal/NL_001.png", "dataset/2_cataract/cataract_001.png",
                    "dataset/3_glaucoma/Glaucoma_001.png", "dataset/4_retina_disease/Retina_001.png")  # fmt: skip
