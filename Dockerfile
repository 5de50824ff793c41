# docker build -t gan-refine .       PyTorch's default build, for CUDA; --build-arg PIP_EXTRA_INDEX_URL=URL names PyTorch's index of another build
# docker run --rm -v "$PWD:/data" -w /data gan-refine refine --gan=GAN.pkl --teacher=TEACHER.pkl
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt .
ENTRYPOINT ["gan-refine"]
CMD ["doctor"]
