"""Miniatures of sets of several diseases and of image quality, in the real layouts."""

import pytest

RIGHT, LEFT = {"eye_side": 0}, {"eye_side": 1}


def write(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


# -- ODIR-5K

ODIR_COLUMNS = (
    "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords,"
    "N,D,G,C,A,H,M,O"
)
ODIR_PATIENTS = (  # of the two eyes of patient 0, only the left has a disease
    "0,69,Female,0_left.jpg,0_right.jpg,glaucoma,normal fundus,0,0,1,0,0,0,0,0",
    "1,57,Male,1_left.jpg,1_right.jpg,moderate non proliferative retinopathy，hypertensive retinopathy,"
    "normal fundus，lens dust,0,1,0,0,0,1,0,0",
    "2,60,Male,2_left.jpg,2_right.jpg,dry age-related macular degeneration，pathological myopia,"
    "suspected glaucoma，normal fundus,0,0,0,0,1,0,1,1",
    "3,60,Male,3_left.jpg,3_right.jpg,anterior segment image,normal fundus,0,0,0,0,0,0,0,1",
)


@pytest.fixture
def odir_images(save_all):
    folder = "ODIR-5K/ODIR-5K/Training Images"
    root = save_all(*(f"{folder}/{number}_{eye}.jpg" for number in range(4) for eye in ("left", "right")))
    (root / "ODIR-5K/ODIR-5K/Testing Images").mkdir()
    return root


@pytest.fixture
def odir5k(odir_images):
    letters = {0: "GN", 1: "HN", 2: "AG", 3: "ON"}
    rows = []
    for eye in (1, 0):  # right eyes first, as published
        for number, patient in enumerate(ODIR_PATIENTS):
            name = f"{number}_{('left', 'right')[eye]}.jpg"
            old = f"../input/ocular-disease-recognition-odir5k/ODIR-5K/Training Images/{name}"
            rows.append(f"{patient},{old},['{letters[number][eye]}'],\"[0, 0, 0, 0, 0, 0, 0, 0]\",{name}")
    write(odir_images / "full_df.csv", f"{ODIR_COLUMNS},filepath,labels,target,filename", *rows)
    return odir_images


# -- RFMiD

RFMID_COLUMNS = (
    "ID,Disease_Risk,DR,ARMD,MH,DN,MYA,BRVO,TSLN,ERM,LS,MS,CSR,ODC,CRVO,TV,AH,ODP,ODE,ST,AION,PT,RT,RS,CRS,EDN,RPEC,"
    "MHL,RP,CWS,CB,ODPM,PRH,MNF,HR,CRAO,TD,CME,PTCR,CF,VH,MCA,VS,BRAO,PLQ,HPED,CL"
)


def rfmid_table(path, *positives):
    """One row a tuple of positive columns; IDs from 1."""
    columns = RFMID_COLUMNS.split(",")
    rows = [RFMID_COLUMNS]
    for number, names in enumerate(positives, start=1):
        assert set(names) <= set(columns)
        rows.append(",".join([str(number), *(str(int(name in names)) for name in columns[1:])]))
    write(path, *rows)


@pytest.fixture
def rfmid(save_all):
    folders = {"a. Training Set": 4, "b. Validation Set": 2, "c. Testing Set": 6}
    root = save_all(*(f"1. Original Images/{f}/{n}.png" for f, number in folders.items() for n in range(1, number + 1)))
    truth = root / "2. Groundtruths"
    rfmid_table(truth / "a. RFMiD_Training_Labels.csv", (), ("DR", "MH"), ("MHL", "ARMD"), ("BRVO", "TSLN"))
    rfmid_table(truth / "b. RFMiD_Validation_Labels.csv", ("CRVO", "MYA"), ("DN",))
    rfmid_table(truth / "c. RFMiD_Testing_Labels.csv", ("MH",), ("MHL",), ("ODP", "ERM"), ("TD",), ("CRS",), ("HR",))
    return root


# -- BRSET

BRSET_COLUMNS = (
    "image_id,patient_id,camera,patient_age,comorbidities,diabetes_time_y,insuline,patient_sex,exam_eye,diabetes,"
    "nationality,optic_disc,vessels,macula,DR_SDRG,DR_ICDR,focus,iluminaton,image_field,artifacts,"
    "diabetic_retinopathy,macular_edema,scar,nevus,amd,vascular_occlusion,hypertensive_retinopathy,drusens,"
    "hemorrhage,retinal_detachment,myopic_fundus,increased_cup_disc,other,quality"
)


def brset_row(number, patient, eye, **cells):
    columns = BRSET_COLUMNS.split(",")
    usual = {name: "0" for name in columns[14:]} | {"camera": "Canon CR", "nationality": "Brazil"}
    usual |= dict.fromkeys(("optic_disc", "vessels", "macula", "focus", "iluminaton", "image_field", "artifacts"), "1")
    usual |= {"image_id": f"img{number:05d}", "patient_id": patient, "exam_eye": eye, "quality": "Adequate", **cells}
    assert set(usual) <= set(columns)
    return ",".join(usual.get(name, "") for name in columns)


@pytest.fixture
def brset(save_all):
    root = save_all(*(f"fundus_photos/img{number:05d}.jpg" for number in range(1, 9)))
    write(
        root / "labels.csv",
        BRSET_COLUMNS,
        brset_row(1, "1", "1"),
        brset_row(2, "1", "2", DR_ICDR="4", macular_edema="1", optic_disc="2", increased_cup_disc="1"),
        brset_row(
            3, "2", "1", quality="Inadequate", DR_ICDR="2", macular_edema="1", amd="1", hypertensive_retinopathy="1"
        ),
        brset_row(4, "2", "2", vascular_occlusion="1", myopic_fundus="1", hypertensive_retinopathy="1"),
        brset_row(5, "3", "2", drusens="1", optic_disc="bv"),
        brset_row(6, "3", "1", drusens="1", amd="1"),
        brset_row(7, "4", "1", quality="Inadequate"),
        brset_row(8, "4", "2", macular_edema="1"),
        encoding="utf-8-sig",
    )
    return root


# -- mBRSET

MBRSET_COLUMNS = (
    "patient,age,sex,dm_time,insulin,insulin_time,oraltreatment_dm,systemic_hypertension,insurance,educational_level,"
    "alcohol_consumption,smoking,obesity,vascular_disease,acute_myocardial_infarction,nephropathy,neuropathy,"
    "diabetic_foot,file,laterality,final_artifacts,final_quality,final_icdr,final_edema"
)


@pytest.fixture
def mbrset(save_all):
    names = ("1.1", "1.2", "1.3", "1.10", "11.1", "11.2")
    root = save_all(*(f"images/{name}.jpg" for name in names))
    ends = ("right,yes,yes,4,no", "right,no,yes,0,yes", "left,yes,no,,", "left,no,no,3,no", "left,no,yes,,no",
            "right,yes,yes,2.0,no")  # fmt: skip
    start = ",58,1,15,1,,1,1,0,3,1,0,0,0,1,1,0,0,"
    rows = [f"{name.split('.')[0]}{start}{name}.jpg,{end}" for name, end in zip(names, ends, strict=True)]
    write(root / "labels_mbrset.csv", MBRSET_COLUMNS, *rows)
    return root


# -- EyeQ


@pytest.fixture
def eyeq(save_all):
    root = save_all("train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg", "train/15_left.jpeg",
                    "test/1_left.jpeg", "test/1_right.jpeg")  # fmt: skip
    write(root / "Label_EyeQ_train.csv", ",image,quality,DR_grade", "0,10_left.jpeg,0,2", "1,10_right.jpeg,1,0",
          "2,13_left.jpeg,2,4")  # fmt: skip
    write(root / "Label_EyeQ_test.csv", ",image,quality,DR_grade", "0,1_left.jpeg,0,0", "1,1_right.jpeg,2,0")
    return root
