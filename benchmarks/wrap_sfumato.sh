# What a user of sfumato writes for calibrated maps with their parts of a network trained by plain_torch.py, beside
# wrap_sfumato.yaml. Run by wrap.py in a folder that holds plain_torch.py, best.pt and mine/, where the YAML file lies.
sfumato wrap --network plain_torch.Net --weights best.pt --data mine --samples 10 --out run
sfumato calibrate run --split val --trust plain_torch
sfumato predict run mine/test --out maps --trust plain_torch
