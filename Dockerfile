# docker build -t gan-refine .                                  for CPUs
# docker build -t gan-refine --build-arg TORCH=cu126 .          for CUDA 12.6; names as in PyTorch's wheel index
# docker run --rm -v "$PWD:/data" -w /data gan-refine refine --gan=GAN.pkl --teacher=TEACHER.pkl
FROM python:3.11-slim
ARG TORCH=cpu
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN grep '^torch==' constraints.txt > /tmp/torch.txt \
    && pip install --no-cache-dir --index-url https://download.pytorch.org/whl/${TORCH} -r /tmp/torch.txt \
    && pip install --no-cache-dir -c constraints.txt .
ENTRYPOINT ["gan-refine"]
CMD ["doctor"]
