# The app, as a user who is not root:
#   docker build -t paligemma . && docker run --rm -p 7860:7860 paligemma
# PyTorch is its CUDA build, unless TORCH_INDEX is the address of an index with another one.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 app \
 && install --directory --owner=1000 /home/app/.cache/huggingface
WORKDIR /home/app/paligemma
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    PYTHONUNBUFFERED=1

COPY requirements.txt ./
ARG TORCH_INDEX=""
# The version of torch is that of requirements.txt.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep ^torch== requirements.txt)" \
 && pip install --no-cache-dir -r requirements.txt
COPY . ./

USER 1000
VOLUME /home/app/.cache/huggingface
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; port = os.environ.get('GRADIO_SERVER_PORT', '7860'); urllib.request.urlopen(f'http://127.0.0.1:{port}/health')"]
CMD ["python", "app.py"]
