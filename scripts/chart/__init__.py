"""What of the Helm chart is generated, and from what.

The values of the chart are described once, in `values` and the modules it
imports, and the settings of the services where they belong, in the package.
From both come `values.yaml`, `values.schema.json` and the chart's README:

    python -m scripts.chart            # write them anew
    python -m scripts.chart --check    # exit with 1 if any is out of date
"""
