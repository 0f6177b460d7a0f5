"""Small made-up data sets in VOC's layout: XML, photographs that are generated, lists, tar files of a server."""

import io
import tarfile

from mirror import jpeg


def of(name, box, difficult=0, more=""):
    """An object's XML; box: xmin, ymin, xmax, ymax."""
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox>{more}</object>"


def xml(*objects, width=60, height=40):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>any.jpg</filename>{size}{''.join(objects)}</annotation>"


HEAD = of("part of it", (1, 1, 2, 2)).replace("object>", "part>")  # VOC's layout of people has boxes inside of objects
# Four to train on, two to judge by.
FILES = {
    "000005": xml(of("cat", (1, 1, 60, 40)), of("dog", (11, 6, 30, 25), difficult=1)),
    "000007": xml(of("person", (3, 4, 3, 4), more=HEAD)),
    "000009": xml(),
    "000012": xml(of("dog", (2.5, 3.25, 10, 20))),
    "000001": xml(of("cat", (5, 5, 24, 34)), of("cat", (25, 5, 44, 34), difficult=1)),
    "000002": xml(of("dog", (1, 1, 10, 10))),
}
LISTS = {"trainval": ("000005", "000007", "000009", "000012"), "test": ("000001", "000002")}


def members(files=FILES, lists=LISTS, root=""):
    """Content by name in the layout below ``root``."""
    found = {f"{root}Annotations/{stem}.xml": text.encode() for stem, text in files.items()}
    found |= {f"{root}JPEGImages/{stem}.jpg": jpeg(n, 40, 60) for n, stem in enumerate(files)}
    return found | {
        f"{root}ImageSets/Main/{k}.txt": "".join(f"{v}\n" for v in names).encode() for k, names in lists.items()
    }


def write(folder, content):
    """Write files by name into a folder, and return it."""
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path, content, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def voc_mirror(folder):
    """VOC 2007 as on its server."""
    for name, stems in LISTS.items():
        files = {stem: FILES[stem] for stem in stems}
        content = members(files, {name: stems}, "VOCdevkit/VOC2007/")
        write_tar(folder / "voc2007" / f"VOC{name}_06-Nov-2007.tar", content)
    return folder
