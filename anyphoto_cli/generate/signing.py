"""With what pictures are signed: a certificate of one's own, or a local one that shows tampering and nothing else."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli import __version__
from anyphoto_cli.config.home import anyphoto_home, one_at_a_time
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed

TEST_NAME = "anyphoto test certificate, not trusted"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
UNTRUSTED = "signingCredential.untrusted"
"""The code of a certificate that no list knows: no failure of the signature."""
ANCHORS = "--trust-anchors"
_DAYS = 3650


@dataclass(frozen=True)
class Credentials:
    """A certificate chain and its private key, PEM. test: made here, trusted by nobody."""

    certificate: str
    key: str
    test: bool


def read_credentials(certificate: Path | None = None, key: Path | None = None) -> Credentials:
    """Of two PEM files; without, this machine's own test certificate, made at first use.

    Raises InputError where one file is given without the other, or is none, or where they cannot sign;
    EnvironmentFault without the libraries.
    """
    if (certificate is None) != (key is None):
        missing = "--c2pa-key" if key is None else "--c2pa-cert"
        raise InputError("is missing beside the other", field=missing, remedy="Give certificate and key together")
    open_c2pa()
    if certificate is None or key is None:
        return _test_credentials()
    texts = []
    for file, field, word in ((certificate, "--c2pa-cert", "CERTIFICATE"), (key, "--c2pa-key", "PRIVATE KEY")):
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read ({type(error).__name__})", file=file, field=field) from error
        if f"{word}-----" not in text:
            raise InputError(f"holds no PEM {word.lower()}", file=file, field=field)
        texts.append(text)
    own = Credentials(texts[0], texts[1], False)
    _try(own)
    return own


def with_statement(png: bytes, statement: dict[str, Any], credentials: Credentials) -> bytes:
    """A PNG with a statement in it. Raises InputError where the library takes no such certificate or key."""
    c2pa = open_c2pa()
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    out = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo("es256", credentials.certificate.encode(), credentials.key.encode(), None)
        c2pa.Builder(statement, context).sign(c2pa.Signer.from_info(info), "image/png", io.BytesIO(png), out)
    except c2pa.C2paError as error:
        raise _unfit(str(error).splitlines()[0][:200]) from error
    return out.getvalue()


def failures(store: dict[str, Any]) -> list[str]:
    """The codes of what failed, of a manifest store as the library tells it."""
    failed = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return list(dict.fromkeys(str(one.get("code")) for one in [*failed, *store.get("validation_status", [])]))


def _try(credentials: Credentials) -> None:
    """Sign a small picture and read it: what does not fit is found before an hour of rendering."""
    from PIL import Image

    plain = io.BytesIO()
    Image.new("RGB", (16, 16)).save(plain, "PNG")
    made = {"action": "c2pa.created", "digitalSourceType": GENERATED}
    statement = {"claim_generator_info": [{"name": "anyphoto", "version": __version__}], "format": "image/png",
                 "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}]}  # fmt: skip
    data = with_statement(plain.getvalue(), statement, credentials)
    with open_c2pa().Reader("image/png", io.BytesIO(data)) as reader:
        broken = [code for code in failures(json.loads(reader.json())) if code != UNTRUSTED]
    if broken:
        raise _unfit(", ".join(broken))


def _unfit(said: str) -> InputError:
    remedy = "Give an ES256 key (curve P-256), and its certificate with those above it, for content credentials"
    return InputError(f"cannot sign with this certificate ({said})", field="--c2pa-cert", remedy=remedy)


def read_trust_anchors(file: Path) -> str:
    """The certificates of a PEM file whose signatures, and those of whom they vouch for, are trusted.

    Raises InputError for any other file, EnvironmentFault without the libraries.
    """
    x509, serialization = _open_cryptography()
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, field=ANCHORS) from error
    except ValueError as error:
        raise InputError("holds no PEM certificate", file=file, field=ANCHORS) from error
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in found)


def _open_cryptography() -> Any:
    """(x509, serialization). Raises EnvironmentFault where it is not installed."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[c2pa]"'
        raise EnvironmentFault("certificates need cryptography", field="--c2pa", remedy=remedy) from error
    return x509, serialization


def open_c2pa() -> Any:
    """c2pa-python. Raises EnvironmentFault where it is not installed."""
    try:
        import c2pa
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[c2pa]"'
        raise EnvironmentFault("content credentials need c2pa-python", field="--c2pa", remedy=remedy) from error
    return c2pa


def _test_credentials() -> Credentials:
    """This machine's own, made where there are none yet and where those that are there cannot sign."""
    folder = anyphoto_home() / "c2pa"
    files = (folder / "test-certificate.pem", folder / "test-key.pem")
    with one_at_a_time("c2pa"):
        try:
            found = Credentials(files[0].read_text(), files[1].read_text(), True)
            _try(found)
        except (OSError, UnicodeDecodeError, InputError):
            found = Credentials(*make_test_certificate(), True)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # before the key lies in it
            for file, text in zip(files, (found.certificate, found.key), strict=True):
                with committed(file) as out:
                    out.write(text.encode())
                file.chmod(0o600)
    return found


def make_test_certificate() -> tuple[str, str]:
    """(chain, key), PEM: a certificate authority of one, and a leaf fit for content credentials."""
    x509, serialization = _open_cryptography()
    import datetime

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common: str) -> Any:
        return x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, TEST_NAME), x509.NameAttribute(NameOID.COMMON_NAME, common),
        ])  # fmt: skip

    def begun(subject: Any, issuer: Any, key: Any) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
        )  # fmt: skip

    def usage(signs: bool) -> Any:
        return x509.KeyUsage(digital_signature=signs, content_commitment=False, key_encipherment=False,
                             data_encipherment=False, key_agreement=False, key_cert_sign=not signs,
                             crl_sign=not signs, encipher_only=False, decipher_only=False)  # fmt: skip

    above, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root, leaf = named("anyphoto test authority"), named(TEST_NAME)
    authority = (
        begun(root, root, above)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(above.public_key()), critical=False)
        .sign(above, hashes.SHA256())
    )
    certificate = (
        begun(leaf, root, own)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        .sign(above, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain = (certificate.public_bytes(pem) + authority.public_bytes(pem)).decode()
    key = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return chain, key
