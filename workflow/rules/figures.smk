# A rule for each figure or table: its module in imbdet.figures says what it reads and which files it writes.

in_report = {".png": "picture", ".md": "table", ".csv": "data"}

for figure in figures.names(pipeline.study):
    files = figures.outputs(layout, figure)
    caption = f"../../{layout.figures}/{figure}.rst"

    rule:
        name:
            f"figure_{figure}"
        input:
            records=figures.inputs(pipeline.study, layout, figure),
            code=pipeline.code("figure", figure),
        output:
            [file for file in files if file.suffix not in in_report],
            [
                report(file, caption=caption, category=figure, labels={"file": in_report[file.suffix]})
                for file in files
                if file.suffix in in_report
            ],
        log:
            logs / f"figure_{figure}.log",
        conda:
            "../envs/imbdet.yaml"
        params:
            arguments=[str(pipeline.path), figure],
            settings=pipeline.settings("figure", figure),
        shell:
            "python -m imbdet figure {params.arguments:q} > {log:q} 2>&1"
